"""Weights in the official layouts and the numbers that the official code gives with them.

A manifest lists the names and shapes of an official state dict; a weight is drawn from its name alone, so that no
weights need to be stored. tests/golden/<model>/*.npz hold a JSON `spec` of each case and the official outputs.
"""

import json
import math
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).parents[1] / "golden"


def load(case: str) -> SimpleNamespace:
    """A case like "asformer/case_a": its spec, its arrays, and `weights`, a function that fills a manifest of it."""
    with np.load(FOLDER / f"{case}.npz") as file:
        arrays = dict(file)
    spec = json.loads(str(arrays.pop("spec")))

    def weights(manifest: str = spec.get("manifest", "manifest.json")) -> dict[str, torch.Tensor]:
        shapes = json.loads((FOLDER / case).with_name(manifest).read_text())
        filled = {name: fill(name, shape, spec["salt"]) for name, (shape, _) in shapes.items()}
        scale = spec.get("scale", 1.0)
        return {name: x * scale if x.dim() > 1 and x.is_floating_point() else x for name, x in filled.items()}

    return SimpleNamespace(spec=spec, arrays=arrays, weights=weights)


def fill(name: str, shape: list[int], salt: int) -> torch.Tensor:
    """The weight of one name: unit variance through a layer, norms near 1, biases near 0."""
    if name.endswith("position_ids"):
        return torch.arange(shape[-1]).reshape(shape)
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{salt}:{name}".encode())))
    x = rng.standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        x = 1 + 0.2 * np.abs(x)
    elif len(shape) > 1 and not name.endswith("running_mean"):
        x = x / math.sqrt(max(1, math.prod(shape[1:])))
    elif name.endswith("weight"):
        x = 1 + 0.1 * x
    else:
        x = 0.1 * x
    return torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32))


def ramp(shape, seed: int) -> torch.Tensor:
    """Uniform noise in -1..1 from a seed."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(rng.uniform(-1, 1, tuple(shape)).astype(np.float32))


def clip(shape, seed: int, low: float, high: float) -> torch.Tensor:
    """Video [B, C, T, H, W] between low and high: noise plus a level per frame and one per channel."""
    batch, channels, frames, *_ = shape
    x = 0.5 * ramp(shape, seed) + 0.25 * ramp((batch, channels, frames, 1, 1), seed + 1000)
    x = x + 0.25 * ramp((batch, channels, 1, 1, 1), seed + 2000)
    return low + (x + 1) * (0.5 * (high - low))


def deviation(ours, official) -> float:
    """The largest difference relative to the largest official value."""
    ours, official = (np.asarray(torch.as_tensor(x).detach(), dtype=np.float64) for x in (ours, official))
    assert ours.shape == official.shape
    return float(np.abs(ours - official).max() / np.abs(official).max())


@pytest.fixture(scope="session")
def golden():
    return SimpleNamespace(load=load, ramp=ramp, clip=clip, deviation=deviation)
