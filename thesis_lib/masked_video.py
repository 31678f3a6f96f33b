"""What masks do to clips: what VideoMAE paints in, what the time beside a gap gives away, and what hiding saves.

Clips are RGB in 0..1, [3, T, H, W] or, several, [B, 3, T, H, W]; arrays and frames come out. `figures.filmstrips` draws
the pictures, `figures.bars` the leakage.
"""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from thesis_lib.masking import MASKS, masks
from thesis_lib.models.videomae import VideoMAE, cube_statistics, to_clip, to_cubes
from thesis_lib.training.videomae import normalised

GREY = 0.5  # of a hidden cube in a picture

# -- pictures --------------------------------------------------------------------------------------------------------


def hide(clip: torch.Tensor, mask: np.ndarray, tubelet: int, patch: int) -> torch.Tensor:
    """The clip with its hidden cubes grey: clip [3, T, H, W], mask [N] bool -> [3, T, H, W]."""
    cubes = to_cubes(clip[None], tubelet, patch)
    cubes[:, torch.from_numpy(mask)] = GREY
    return to_clip(cubes, _grid(clip, tubelet, patch), tubelet, patch)[0]


@torch.no_grad()
def reconstruct(model: VideoMAE, clip: torch.Tensor, mask: np.ndarray, normalise: bool = True) -> torch.Tensor:
    """The clip with its hidden cubes as the model guesses them: clip [3, T, H, W], mask [N] bool -> [3, T, H, W].

    A model that learned normalised targets says how a cube varies, not which colour and contrast it has: with
    normalise=True these, three means and three deviations a cube, are taken from the true cube. Such a picture shows
    what the model knows of shapes and motion and flatters it in colours; so does the official run_videomae_vis.py.
    """
    cubes, hidden = to_cubes(clip[None], model.tubelet, model.patch), torch.from_numpy(mask)
    guess = model.reconstruct(normalised(clip[None]), hidden[None]).unflatten(2, (-1, 3))
    if normalise:
        mean, deviation = cube_statistics(cubes[:, hidden])
        guess = guess * deviation + mean
    cubes[:, hidden] = guess.clamp(0, 1)
    return to_clip(cubes, model.grid(clip[None]), model.tubelet, model.patch)[0]


def images(clip: torch.Tensor) -> np.ndarray:
    """A clip [3, T, H, W] as pictures [T, H, W, 3] uint8."""
    return (clip * 255).round().byte().permute(1, 2, 3, 0).numpy()


def pictures(model: VideoMAE, clip: torch.Tensor, mask: np.ndarray, normalise: bool = True) -> dict[str, np.ndarray]:
    """{"input", "masked", "reconstruction": [T, H, W, 3] uint8} of one clip [3, T, H, W]; see `reconstruct`."""
    masked = hide(clip, mask, model.tubelet, model.patch)
    found = {"input": clip, "masked": masked, "reconstruction": reconstruct(model, clip, mask, normalise)}
    return {title: images(one) for title, one in found.items()}


# -- what time gives away --------------------------------------------------------------------------------------------


def copy_nearest(cubes: torch.Tensor, mask: np.ndarray, grid: tuple[int, int, int]) -> torch.Tensor:
    """Guesses without a network: a hidden cube is the visible one at its place that is nearest in time, the earlier of
    two; where a place is never visible, the mean of all visible cubes.

    cubes [N, D], mask [N] bool -> [N, D], visible cubes as they are.
    """
    moments = grid[0]
    guess = cubes[torch.from_numpy(~mask)].mean(dim=0).expand(len(cubes), -1).clone()
    by_place, true = guess.view(moments, -1, cubes.shape[1]), cubes.view(moments, -1, cubes.shape[1])
    visible = ~mask.reshape(moments, -1)
    for place in np.flatnonzero(visible.any(axis=0)):
        shown = np.flatnonzero(visible[:, place])
        nearest = shown[np.abs(shown - np.arange(moments)[:, None]).argmin(axis=1)]
        by_place[:, place] = true[nearest, place]
    return guess


def leakage(
    clips: Mapping[str, torch.Tensor],
    ratios: Sequence[float] = (0.75, 0.9),
    tubelet: int = 2,
    patch: int = 8,
    draws: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """How far copying in time gets: a row a clip, kind of mask, ratio and draw of the mask.

    clips: {title: [3, T, H, W] or [B, 3, T, H, W]}. error: square error of `copy_nearest` over hidden cubes, as a share
    of what the mean of the visible cubes leaves there: 0 = all can be copied, 1 = nothing, as under tubes.
    copied: share of the hidden cubes with a visible one at their place · hidden: share of all cubes that are hidden.
    """
    rows = []
    for title, given in clips.items():
        for number, clip in enumerate(given if given.dim() == 5 else given[None]):
            grid, cubes = _grid(clip, tubelet, patch), to_cubes(clip[None], tubelet, patch)[0].flatten(1)
            for kind, ratio in itertools.product(MASKS, ratios):
                drawn = masks(kind, grid, ratio, np.random.default_rng([seed, number]), draws)
                for draw, mask in enumerate(drawn):
                    copy = (copy_nearest(cubes, mask, grid) - cubes)[mask].square().sum()
                    mean = (cubes[~mask].mean(dim=0) - cubes)[mask].square().sum()
                    seen = np.tile(~mask.reshape(grid[0], -1).all(axis=0), grid[0])
                    rows.append(
                        (title, number, kind, ratio, draw, (copy / mean).item(), seen[mask].mean(), mask.mean())
                    )
    return pd.DataFrame(rows, columns=["clip", "number", "masking", "ratio", "draw", "error", "copied", "hidden"])


# -- what hiding saves -----------------------------------------------------------------------------------------------


def multiply_adds(tokens: int, width: int, layers: int) -> dict[str, int]:
    """Of transformer blocks: "pairs", attention's products, quadratic in tokens, and "each", linear in them."""
    return {"pairs": 2 * layers * tokens**2 * width, "each": 12 * layers * tokens * width**2}


def costs(model: VideoMAE, grid: tuple[int, int, int], ratios: Sequence[float] = (0, 0.5, 0.75, 0.9)) -> pd.DataFrame:
    """Multiply-adds for one clip: a row a share of places that tubes hide; at 0 nothing is hidden.

    visible, hidden: tokens · encoder · attention: the part of the encoder that is quadratic in tokens · decoder: works
    on all tokens, whatever is hidden; 0 without one · encoder_share, attention_share: of what they are where nothing is
    hidden.
    """
    places, count = math.prod(grid[1:]), math.prod(grid)
    cube, width = 3 * model.tubelet * model.patch**2, model.width
    layers = len((model if model.num_classes else model.encoder).blocks)

    def encoder(tokens: int) -> tuple[int, int]:
        blocks = multiply_adds(tokens, width, layers)
        return tokens * cube * width + sum(blocks.values()), blocks["pairs"]

    rows, (most, most_pairs) = [], encoder(count)
    for ratio in ratios:
        hidden = int(ratio * places) * grid[0]
        work, pairs = encoder(count - hidden)
        decoder = 0
        if not model.num_classes:
            narrow = model.mask_token.shape[2]
            decoder = sum(multiply_adds(count, narrow, len(model.decoder.blocks)).values())
            decoder += (count - hidden) * width * narrow + hidden * narrow * cube
        rows.append((ratio, count - hidden, hidden, work, pairs, decoder, work / most, pairs / most_pairs))
    columns = ["ratio", "visible", "hidden", "encoder", "attention", "decoder", "encoder_share", "attention_share"]
    return pd.DataFrame(rows, columns=columns)


def step_seconds(
    model: VideoMAE,
    clips: torch.Tensor,
    ratios: Sequence[float] = (0.5, 0.75, 0.9),
    repeats: int = 5,
    clock=time.perf_counter,
) -> pd.DataFrame:
    """Seconds of forward and backward of a pretraining step by the share of places that tubes hide.

    clips [B, 3, T, H, W]; measured where the model is. Ratios take turns, once to warm up, so that noise meets all
    alike: ratio, seconds (median over the turns).
    """
    clips = clips.to(next(model.parameters()).device)
    inputs, rng = normalised(clips), np.random.default_rng(0)
    grid = model.grid(inputs)
    drawn = {ratio: torch.from_numpy(masks("tube", grid, ratio, rng, len(clips))).to(clips.device) for ratio in ratios}
    seconds = {ratio: [] for ratio in ratios}
    for turn in range(repeats + 1):
        for ratio, mask in drawn.items():
            model.zero_grad(set_to_none=True)
            start = clock()
            F.mse_loss(model.reconstruct(inputs, mask), model.targets(inputs, mask)).backward()
            if clips.is_cuda:
                torch.cuda.synchronize()
            took = clock() - start
            if turn:
                seconds[ratio].append(took)
    model.zero_grad(set_to_none=True)
    return pd.DataFrame({"ratio": list(ratios), "seconds": [median(seconds[ratio]) for ratio in ratios]})


def _grid(clip: torch.Tensor, tubelet: int, patch: int) -> tuple[int, int, int]:
    return tuple(side // unit for side, unit in zip(clip.shape[-3:], (tubelet, patch, patch), strict=True))
