"""A picture of pseudo-labels: boxes of frames, and what a prompter finds in them."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from thesis_lib.palette import FAINT, INK, OURS, PAGE_WIDTH, WRONG, panels, plain, styled

HALO = [withStroke(linewidth=1.6, foreground="white")]  # letters stay readable on bars


@styled
def regions(frames, boxes, entities: Sequence[Sequence[tuple[str, float]]], threshold: float = 0.2) -> Figure:
    """Frames side by side, all but a box of each dimmed; under it the likeliest entities of the box as bars.

    frames: [N, H, W, 3] uint8 · boxes: [N, 4] left, top, width, height in pixels · entities: of each box (name,
    probability), likeliest first. Bars are grey where the likeliest one is below the threshold, the dashed line: the
    entity loss passes those boxes over.
    """
    count, most = len(frames), max(map(len, entities))
    height, width = frames[0].shape[:2]
    cell = PAGE_WIDTH / max(count, 4)
    upper, lower = cell * height / width, 0.17 * most + 0.35
    figure, axes = panels(
        2, count, width=cell * count, height=upper + lower + 0.2, gridspec_kw={"height_ratios": [upper, lower]}
    )
    for (picture, chart), frame, box, found in zip(axes.T, frames, boxes, entities, strict=True):
        left, top, wide, high = box
        inside = np.zeros((height, width, 1), dtype=bool)
        inside[top : top + high, left : left + wide] = True
        picture.imshow(np.where(inside, frame, 255 - (255 - frame.astype(int)) // 3).astype(np.uint8))
        outline = dict(fill=False, edgecolor=WRONG, linewidth=1.6)
        picture.add_patch(mpl.patches.Rectangle((left - 0.5, top - 0.5), wide, high, **outline))
        picture.set_xticks([])
        picture.set_yticks([])
        picture.spines[:].set(visible=True, color=FAINT)

        names, probabilities = zip(*found, strict=True)
        places = np.arange(len(names))
        chart.barh(places, probabilities, color=OURS if probabilities[0] >= threshold else FAINT, height=0.7)
        for place, name in zip(places, plain(names), strict=True):
            chart.text(0.03, place, name, va="center", fontsize=7, color=INK, path_effects=HALO)
        chart.axvline(threshold, color=INK, linewidth=0.8, linestyle="--")
        chart.set(xlim=(0, 1), ylim=(most - 0.5, -0.5), yticks=[], xticks=[0, 1])
        chart.set_xlabel("probability", fontsize=7, labelpad=-6)
        chart.spines["left"].set_visible(False)
    return figure
