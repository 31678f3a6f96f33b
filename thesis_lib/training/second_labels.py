"""The videos of a split a second at a time: what a system sees of each second beside its label."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from thesis_lib import metrics
from thesis_lib.data import salads


def read(
    inputs: Callable[[str], np.ndarray], root: str | Path, split: int, part: str, fps: float, rule: str = "middle"
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, inputs [S, ...], labels [S] int64) of the videos of one part of a split, as far as both go.

    inputs: name -> [seconds, ...] · root: labels at `fps` and splits in MS-TCN layout. rule="as_published" keeps every
    second of the inputs: those without a label become class 0, as in the thesis.
    """
    root, mapping = Path(root), salads.read_mapping(Path(root) / "mapping.txt")
    videos = []
    for name in salads.read_bundle(root / "splits" / f"{part}.split{split}.bundle"):
        seen = inputs(name)
        frames = salads.encode(salads.read_labels(root / "groundTruth" / f"{name}.txt"), mapping, where=name)
        labels = metrics.to_seconds(frames, fps, rule, len(seen) if rule == "as_published" else None)
        count = min(len(seen), len(labels))
        videos.append((name, seen[:count], np.asarray(labels[:count], dtype=np.int64)))
    return videos


def some(videos: Sequence, count: int, seed: int) -> list:
    """The first `count` of a permutation that depends on the seed alone, in their order, so that fewer are a part of
    more; all where count is 0."""
    chosen = np.random.default_rng(seed).permutation(len(videos))[: count or None]
    return [videos[index] for index in sorted(chosen)]
