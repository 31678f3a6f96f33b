"""What sparsity looks like and what it saves: patches that survive, edges of a pattern, cost against length.

The functions above the line give plain frames and arrays, those below it draw them.
"""

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from thesis_lib.models.svitt import SparseSelfAttention, count_edges, sparse_pattern
from thesis_lib.palette import FAINT, OURS, PAGE_WIDTH, PAPER, TEXT_WIDTH, THESIS, panels, styled
from thesis_lib.training import svitt

KINDS = "sparse", "dense"
COLORS = {"sparse": OURS, "dense": PAPER}
CLS, LOCAL, RANDOM = 1, 2, 3  # kinds of edges


def kept_patches(encoder, clips: torch.Tensor) -> np.ndarray:
    """Which patches are left: bool [stages, B, T, rows, columns], all of them at first, then after each pruned layer.

    encoder: `training.svitt.Encoder`; clips [B, 3, T, S, S] of RGB in 0..1.
    """
    with torch.no_grad():
        stages = [_every_patch(encoder, clips), *encoder.kept(clips)]
    return np.stack([_as_mask(encoder, clips, kept) for kept in stages])


def kept_for_texts(encoder, clip: torch.Tensor, texts: Sequence[str]) -> np.ndarray:
    """Which patches of a clip [3, T, S, S] the last layer of fusion sees for each text: bool [K, T, rows, columns].

    All that the video encoder left, where nothing is pruned across modalities.
    """
    clips = clip[None].expand(len(texts), -1, -1, -1, -1)
    with torch.no_grad():
        stages = [_every_patch(encoder, clips), *encoder.kept(clips), *encoder.kept_for(clips, texts)]
    return _as_mask(encoder, clips, stages[-1])


def _every_patch(encoder, clips: torch.Tensor) -> torch.Tensor:
    """The numbers [B, N] of all patches."""
    return torch.arange(clips.shape[2] * math.prod(encoder.model.config.window[1:])).expand(len(clips), -1)


def _as_mask(encoder, clips: torch.Tensor, kept: torch.Tensor) -> np.ndarray:
    """Numbers [B, n] of patches -> bool [B, T, rows, columns]."""
    mask = np.zeros((len(clips), clips.shape[2] * math.prod(encoder.model.config.window[1:])), dtype=bool)
    np.put_along_axis(mask, kept.cpu().numpy(), True, axis=1)
    return mask.reshape(len(clips), clips.shape[2], *encoder.model.config.window[1:])


def kept_table(left: np.ndarray) -> pd.DataFrame:
    """Patches of a clip at each stage of `kept_patches`: columns stage, patches, share."""
    counts = left[:, 0].reshape(len(left), -1).sum(axis=1)
    return pd.DataFrame({"stage": np.arange(len(left)), "patches": counts, "share": counts / counts[0]})


def edge_matrix(num_patches: int, pattern: torch.Tensor, block: int, local: int) -> np.ndarray:
    """[1 + N, 1 + N] ints, row = query: 0 no edge, CLS, LOCAL (the first `local` columns of the pattern) or RANDOM."""
    block_of = np.arange(num_patches) // block
    between = np.zeros((len(pattern), len(pattern)), dtype=int)
    for column in reversed(range(pattern.shape[1])):
        between[np.arange(len(pattern)), pattern[:, column]] = LOCAL if column < local else RANDOM
    matrix = np.full((1 + num_patches, 1 + num_patches), CLS)
    matrix[1:, 1:] = between[block_of[:, None], block_of]
    return matrix


def edge_counts(
    frames: Sequence[int], patches: int, block: int, local: int, random: int, seed: int = 0
) -> pd.DataFrame:
    """Edges of a head for clips of so many frames of `patches` patches: columns frames, kind, edges."""
    rows = []
    for count in frames:
        pattern = sparse_pattern(-(-count * patches // block), local, random, seed)
        rows.append((count, "sparse", count_edges(count * patches, pattern, block)))
        rows.append((count, "dense", count_edges(count * patches)))
    return pd.DataFrame(rows, columns=["frames", "kind", "edges"])


def attention_times(
    frames: Sequence[int],
    side: int,
    block: int,
    local: int,
    random: int,
    dim: int = 64,
    heads: int = 4,
    repeats: int = 3,
    seed: int = 0,
) -> pd.DataFrame:
    """Seconds of one forward and backward pass of an attention layer: columns frames, kind, seconds, a row a repeat.

    side: patches of a frame's side. Sparse and dense run in turns, after one turn to warm up, on this machine's CPU.
    """
    rows = []
    for count in frames:
        torch.manual_seed(seed)
        attention = SparseSelfAttention(dim, heads, (count, side, side), block)
        x = torch.randn(1, 1 + count * side**2, dim)
        patterns = {"sparse": sparse_pattern(-(-count * side**2 // block), local, random, seed), "dense": None}
        for turn in range(repeats + 1):
            for kind, pattern in patterns.items():
                start = time.perf_counter()
                attention(x, pattern).sum().backward()
                if turn:
                    rows.append((count, kind, time.perf_counter() - start))
    return pd.DataFrame(rows, columns=["frames", "kind", "seconds"])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """k of the power law cost = c * size ** k that fits best, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def exponents(table: pd.DataFrame, cost: str) -> dict[str, float]:
    """`exponent` of the medians of each kind; table as of edge_counts or attention_times."""
    medians = table.groupby(["kind", "frames"])[cost].median()
    return {kind: exponent(medians[kind].index, medians[kind]) for kind in KINDS}


def with_sparsity(tuned, weights: str | Path, vocab: str | Path, **changed):
    """A fine-tuned SViTT (`training.clip_tuning`) whose encoder has other edges or keep rates and the same weights.

    weights: those it started from; changed: see `training.svitt.load`.
    """
    encoder = svitt.load(weights, vocab, **changed)
    encoder.load_state_dict(tuned.encoder.state_dict())
    other = copy.deepcopy(tuned)
    other.encoder = encoder
    return other.eval()


def work(encoder) -> int:
    """Edges of a head in all video layers of a `training.svitt.Encoder`, for one clip, dropped patches left out."""
    config, layers = encoder.model.config, encoder.model.vision_encoder.encoder
    left, edges = int(np.prod(config.window)), 0
    for number in range(config.video_layers):
        edges += count_edges(left, layers.pattern(number, left), config.block)
        if number in config.drop_after and config.keep_rate < 1:
            left = math.ceil(config.keep_rate * left)
    return edges


def accuracy_table(
    tuned,
    accuracy: Callable,
    weights: Path,
    vocab: Path,
    edges: Sequence[tuple[int, int] | None],
    keep: Sequence[float],
) -> pd.DataFrame:
    """Every pair of `edges` (None: dense) and keep rates, at inference alone: columns edges, keep, work, accuracy.

    accuracy: model -> 0..1, as `shuffling.tuned` gives it; work: as a share of dense attention to all patches.
    """
    whole, rows = work(svitt.load(weights, vocab, sparse_edges=None, keep_rate=1.0)), []
    for pattern in edges:
        for rate in keep:
            model = with_sparsity(tuned, weights, vocab, sparse_edges=pattern, keep_rate=rate)
            name = "dense" if pattern is None else f"{pattern[0]} local, {pattern[1]} random"
            rows.append((name, rate, work(model.encoder) / whole, accuracy(model)))
    return pd.DataFrame(rows, columns=["edges", "keep", "work", "accuracy"])


# -- pictures ----------------------------------------------------------------------------------------------------------


@styled
def draw_kept(clip, left: np.ndarray, titles: Sequence[str] | None = None) -> Figure:
    """The frames of a clip as columns, stages as rows; dropped patches fade to grey.

    clip [3, T, S, S] of RGB in 0..1; left bool [stages, T, rows, columns]: one clip of `kept_patches`.
    """
    frames = np.asarray(clip).transpose(1, 2, 3, 0)
    stages, count, rows, _ = left.shape
    scale = frames.shape[1] // rows
    cell = min(1.1, (PAGE_WIDTH - 1) / count)
    figure, axes = panels(stages, count, width=cell * count + 1, height=(cell + 0.06) * stages + 0.25)
    for stage in range(stages):
        for number in range(count):
            ax, shown = axes[stage, number], left[stage, number].repeat(scale, 0).repeat(scale, 1)[..., None]
            grey = 0.75 + 0.15 * frames[number].mean(axis=2, keepdims=True)
            ax.imshow(np.where(shown, frames[number], grey).clip(0, 1), interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set(visible=True, color=FAINT)
            if stage == 0:
                ax.set_title(f"frame {number + 1}", fontsize=8, fontweight="normal", loc="center")
        share = left[stage].mean()
        title = titles[stage] if titles is not None else f"{100 * share:.0f} %"
        axes[stage, 0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=8)
    return figure


@styled
def draw_edges(matrix: np.ndarray, patches: int | None = None) -> Figure:
    """`edge_matrix` as a picture, or {title: matrix} side by side; patches: of a frame, for lines between frames."""
    matrices = matrix if isinstance(matrix, Mapping) else {"": matrix}
    width = TEXT_WIDTH / 2 if len(matrices) == 1 else TEXT_WIDTH
    figure, axes = panels(1, len(matrices), width=width, height=width / len(matrices) + 0.5)
    colors = np.array([(1, 1, 1), *(_rgb(color) for color in (FAINT, OURS, THESIS))])
    for ax, (title, edges) in zip(axes[0], matrices.items(), strict=True):
        ax.imshow(colors[edges], interpolation="nearest")
        for border in range(1, len(edges), patches or len(edges)):
            ax.axhline(border - 0.5, color="white", linewidth=0.5)
            ax.axvline(border - 0.5, color="white", linewidth=0.5)
        ax.set_title(title)
        ax.set_xlabel("key")
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0, 0].set_ylabel("query")
    for color, label in ((FAINT, "[CLS]"), (OURS, "local"), (THESIS, "random")):
        axes[0, 0].plot([], [], "s", color=color, label=label)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@styled
def draw_growth(edges: pd.DataFrame, times: pd.DataFrame) -> Figure:
    """Edges and seconds against frames on logarithmic axes, with the fitted exponents; a dot a repeat."""
    figure, axes = panels(1, 2, width=TEXT_WIDTH, height=2.8)
    for ax, table, cost, label in zip(
        axes[0], (edges, times), ("edges", "seconds"), ("edges of a head", "forward and backward, s"), strict=True
    ):
        powers = exponents(table, cost)
        for kind in KINDS:
            rows = table[table["kind"] == kind]
            medians = rows.groupby("frames")[cost].median()
            text = f"{kind}: frames$^{{{powers[kind]:.2f}}}$"
            ax.plot(medians.index, medians, color=COLORS[kind], label=text)
            ax.plot(rows["frames"], rows[cost], "o", color=COLORS[kind], markersize=3, alpha=0.5, mew=0)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.set_xticks(sorted(table["frames"].unique()), [str(count) for count in sorted(table["frames"].unique())])
        ax.minorticks_off()
        ax.set_xlabel("frames")
        ax.set_title(label)
        ax.grid(axis="both")
        ax.legend()
    return figure


def _rgb(color: str) -> tuple[float, float, float]:
    return tuple(int(color[k : k + 2], 16) / 255 for k in (1, 3, 5))
