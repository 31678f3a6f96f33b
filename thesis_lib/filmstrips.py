"""Filmstrips: the same moments of several versions of a clip, one version a row."""

import numpy as np
from matplotlib.figure import Figure

from thesis_lib.palette import FAINT, PAGE_WIDTH, panels, styled


@styled
def filmstrips(rows, every=1, width=PAGE_WIDTH, name_width=1.2) -> Figure:
    """Clips under each other, frames from left to right with the number of each above the first row.

    rows: {title: [T, H, W, 3] uint8}, all of one shape; every: a frame out of so many; name_width: of the titles, in.
    """
    strips = {title: np.asarray(frames)[::every] for title, frames in rows.items()}
    (count, high, wide), *others = {strip.shape[:3] for strip in strips.values()}
    if others:
        raise ValueError("filmstrips: all clips need the same frames and size")
    cell = (width - name_width) / count
    figure, axes = panels(len(strips), count, width=width, height=len(strips) * (cell * high / wide + 0.05) + 0.25)
    for number in range(count):
        axes[0, number].set_title(number * every, fontsize=7, fontweight="normal", loc="center", pad=3)
    for line, (title, strip) in zip(axes, strips.items(), strict=True):
        for ax, image in zip(line, strip, strict=True):
            ax.imshow(image, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set(visible=True, color=FAINT, linewidth=0.6)
        line[0].set_ylabel(title, rotation=0, ha="right", va="center")
    return figure
