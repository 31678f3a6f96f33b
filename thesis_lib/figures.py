"""The pictures of the report: plain arrays and frames in, a matplotlib Figure out.

Nothing here knows where numbers come from or where pictures go. Pictures of videos, frames and classes stand here,
clips under each other in `filmstrips`, charts of numbers in `charts`; a notebook reaches all as `figures.name`.
`to_svg` repeats itself byte by byte.
"""

import io

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from thesis_lib.charts import (
    bars,
    bounded,
    caption_lag,
    dot_plot,
    histogram,
    learning_curves,
    paired_lines,
    positive_pairs,
    ranking,
    segment_lengths,
)
from thesis_lib.filmstrips import filmstrips
from thesis_lib.palette import (
    FAINT,
    INK,
    OURS,
    PAGE_WIDTH,
    PAPER,
    STYLE,
    TEXT_WIDTH,
    THESIS,
    WRONG,
    class_colors,
    panels,
    plain,
    styled,
)

__all__ = [
    "OURS",
    "PAPER",
    "THESIS",
    "bars",
    "bounded",
    "caption_lag",
    "class_balance",
    "class_colors",
    "confusion",
    "dot_plot",
    "embedding_map",
    "filmstrips",
    "frame_strip",
    "histogram",
    "learning_curves",
    "paired_lines",
    "positive_pairs",
    "principal_axes",
    "ranking",
    "segment_lengths",
    "similarity_strip",
    "timelines",
    "to_svg",
    "transitions",
]


def to_svg(figure: Figure) -> str:
    """The figure as SVG text without date, the same for the same data."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None}, bbox_inches="tight", pad_inches=0.05
        )
    return buffer.getvalue()


def _indices(labels, names) -> np.ndarray:
    """Labels as positions in `names`; strings or ints come in."""
    labels = np.asarray(labels)
    if labels.dtype.kind in "iu":
        return labels
    place = {name: i for i, name in enumerate(names)}
    unknown = sorted(set(labels.tolist()) - set(place))
    if unknown:
        raise ValueError(f"label {unknown[0]!r} is not among the {len(place)} class names")
    return np.array([place[label] for label in labels.tolist()])


def _rgb(colors) -> np.ndarray:
    return (np.array([mpl.colors.to_rgb(color) for color in colors]) * 255).round().astype(np.uint8)


@styled
def timelines(rows, names, seconds_per_label=1.0, errors=None, legend=True, width=PAGE_WIDTH) -> Figure:
    """Label sequences of one video as colour bars, one under the other on one time axis.

    rows: {title: labels [T]}, ints (positions in `names`) or class names; the first is usually the truth.
    seconds_per_label: a number, or {title: number} where rows have different rates.
    errors: title of the row to compare with the first one, of the same rate: red where they differ.
    """
    labels = {title: _indices(row, names) for title, row in rows.items()}
    period = seconds_per_label if isinstance(seconds_per_label, dict) else dict.fromkeys(labels, seconds_per_label)
    strips = [_rgb(class_colors(names))[row] for row in labels.values()]
    titles, ends = list(labels), [len(row) * period[title] for title, row in labels.items()]
    if errors is not None:
        truth, guess = labels[titles[0]], labels[errors]
        shared = min(len(truth), len(guess))
        strips.append(_rgb(["#f4f4f4", WRONG])[(truth[:shared] != guess[:shared]).astype(int)])
        ends.append(shared * period[errors])
        titles.append(f"errors of {errors}")
    present = np.unique(np.concatenate(list(labels.values())))
    columns = 5 if width > 8 else 3
    legend_height = 0.19 * -(-len(present) // columns) + 0.15 if legend else 0
    figure, axes = panels(len(strips), width=width, height=0.36 * len(strips) + 0.5 + legend_height, sharex=True)
    for ax, title, strip, end in zip(axes[:, 0], titles, strips, ends, strict=True):
        ax.imshow(strip[None], aspect="auto", interpolation="nearest", extent=(0, end, 0, 1))
        ax.set_ylabel(title, rotation=0, ha="right", va="center")
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.tick_params(bottom=ax is axes[-1, 0])
    axes[-1, 0].set_xlim(0, max(ends))
    axes[-1, 0].set_xlabel("time, s")
    if legend:
        patches = [Patch(color=class_colors(names)[i], label=plain(names)[i]) for i in present]
        figure.legend(handles=patches, loc="outside lower center", ncols=columns, handlelength=1.2, columnspacing=1.4)
    return figure


def _matrix(ax, shares, names, title, size=7):
    """Shares [C, C] as a heat map, cells from 5 per cent on with their number; rows without a case stay grey."""
    ax.imshow(np.full((*shares.shape, 3), 0.95), interpolation="nearest")
    image = ax.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    ticks = np.arange(len(names))
    ax.set_xticks(ticks, plain(names), rotation=90, fontsize=size)
    ax.set_yticks(ticks, plain(names), fontsize=size)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for row, column in np.argwhere(np.nan_to_num(shares) >= 0.05):
        share = shares[row, column]
        text = f"{100 * share:.0f}"
        ax.text(column, row, text, ha="center", va="center", fontsize=size - 1, color="white" if share > 0.55 else INK)
    ax.set_title(title)
    return image


def _rows_to_shares(counts) -> np.ndarray:
    counts = np.asarray(counts, dtype=float)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)


@styled
def confusion(matrix, names) -> Figure:
    """What each class is taken for, in per cent of its frames.

    matrix: counts [C, C], truth in rows, or {title: counts} side by side. A class without frames stays grey.
    """
    matrices = matrix if isinstance(matrix, dict) else {"": matrix}
    wide = len(matrices) > 1
    figure, axes = panels(
        1, len(matrices), width=PAGE_WIDTH + 1 if wide else TEXT_WIDTH, height=6.1 if wide else 6.4, sharey=True
    )
    for ax, (title, counts) in zip(axes[0], matrices.items(), strict=True):
        _matrix(ax, _rows_to_shares(counts), names, title, size=8.5 if wide else 7)
        ax.set_xlabel("predicted")
    axes[0, 0].set_ylabel("true")
    return figure


@styled
def transitions(matrix, names) -> Figure:
    """Which action follows which, in per cent of an action's successors. matrix: counts [C, C] or {title: counts}."""
    figure = confusion(matrix, names)
    for ax in figure.axes:
        ax.set_xlabel("next action")
    figure.axes[0].set_ylabel("action")
    return figure


@styled
def class_balance(counts, names, unit="% of frames") -> Figure:
    """Share of each class. counts: {data set: [C]}; the first one as bars in class colours, others as marks on them."""
    shares = {title: 100 * np.asarray(row, dtype=float) / np.sum(row) for title, row in counts.items()}
    titles, first = list(shares), next(iter(shares.values()))
    order = np.argsort(first, kind="stable")
    figure, axes = panels(height=0.2 * len(names) + 0.7)
    ax, places = axes[0, 0], np.arange(len(names))
    colors = np.array(class_colors(names))[order]
    ax.barh(places, first[order], color=colors, edgecolor="#999999", linewidth=0.4, height=0.75, label=titles[0])
    for marker, title in zip("Dos^", titles[1:], strict=False):
        ax.plot(shares[title][order], places, marker, color=INK, mec="white", markersize=5, label=title)
    ax.set_yticks(places, np.array(plain(names))[order])
    ax.set_xlabel(unit)
    ax.grid(axis="x")
    ax.margins(y=0.01)
    if len(titles) > 1:
        figure.legend(loc="outside upper right", ncols=len(titles))
    return figure


@styled
def frame_strip(images, titles=None, colors=None, columns=8) -> Figure:
    """Frames side by side with a line of text above and a coloured border.

    images: [H, W, 3] uint8 each; None is drawn as a hatched box, a frame that could not be decoded.
    colors: a border colour per frame, for example `class_colors([label])`.
    """
    images = list(images)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height, width = next((image.shape[:2] for image in images if image is not None), (3, 4))
    cell = PAGE_WIDTH / max(columns, 4)
    lines = max((str(title).count("\n") + 1 for title in titles), default=1) if titles is not None else 0
    size = (cell * columns, rows * (cell * height / width + 0.15 * lines + 0.06))
    figure, axes = panels(rows, columns, width=size[0], height=size[1])
    for i, ax in enumerate(axes.flat):
        ax.set_xticks([])
        ax.set_yticks([])
        if i >= len(images):
            ax.set_visible(False)
            continue
        if images[i] is None:
            ax.add_patch(
                mpl.patches.Rectangle((0, 0), width, height, facecolor="#f1f1f1", edgecolor=FAINT, hatch="///")
            )
            ax.text(width / 2, height / 2, "not decodable", ha="center", va="center", fontsize=7, color=WRONG)
            ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
        else:
            ax.imshow(images[i], interpolation="nearest")
        border = colors[i] if colors is not None else FAINT
        ax.spines[:].set(visible=True, color=border, linewidth=2.5 if colors is not None else 0.6)
        if titles is not None:
            ax.set_title(titles[i], fontsize=7, fontweight="normal", loc="center", pad=3)
    return figure


@styled
def similarity_strip(similarities, names, seconds_per_label=1.0, truth=None) -> Figure:
    """Video x text products over time. similarities [C, T]; truth [T] ints, drawn as a black line through its class."""
    similarities = np.asarray(similarities, dtype=float)
    classes, steps = similarities.shape
    figure, axes = panels(width=PAGE_WIDTH, height=0.17 * classes + 0.8)
    ax, end = axes[0, 0], steps * seconds_per_label
    extent = (0, end, classes - 0.5, -0.5)
    image = ax.imshow(similarities, aspect="auto", cmap="magma", interpolation="nearest", extent=extent)
    ax.set_yticks(np.arange(classes), plain(names), fontsize=7)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("time, s")
    if truth is not None:
        truth = _indices(truth, names)[:steps]
        borders = np.flatnonzero(np.diff(truth)) + 1
        starts, ends = np.r_[0, borders], np.r_[borders, len(truth)]
        for dashes, color, width in (("-", "black", 3.2), ("-", "#4cf0ff", 1.6)):
            ax.hlines(
                truth[starts], starts * seconds_per_label, ends * seconds_per_label, color, dashes, linewidth=width
            )
        ax.plot([], [], color="#4cf0ff", label="truth")
        figure.legend(loc="outside upper right")
    figure.colorbar(image, ax=ax, label="similarity", pad=0.01, aspect=30).outline.set_visible(False)
    return figure


def principal_axes(vectors, dimensions=2) -> tuple[np.ndarray, np.ndarray]:
    """The first principal axes [dimensions, D] of vectors [N, D] and their shares of variance; signs fixed."""
    centred = np.asarray(vectors, dtype=np.float64) - np.mean(vectors, axis=0, dtype=np.float64)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:dimensions]
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])
    return axes * signs[:, None], (singular**2 / (singular**2).sum())[:dimensions]


@styled
def embedding_map(vectors, labels, names, stars=None) -> Figure:
    """Video vectors [N, D] on their first two principal axes, in class colours; class texts [C, D] as stars.

    Each of the two sets is centred by itself: the constant distance between the modalities says nothing about classes.
    """
    axes_, shares = principal_axes(vectors)
    labels, colors = _indices(labels, names), class_colors(names)
    figure, axes = panels(width=TEXT_WIDTH, height=4.4)
    ax = axes[0, 0]
    points = (np.asarray(vectors) - np.mean(vectors, axis=0)) @ axes_.T
    for i in np.unique(labels):
        ax.plot(
            *points[labels == i].T, "o", color=colors[i], markersize=3.5, mec="#777777", mew=0.2, label=plain(names)[i]
        )
    if stars is not None:
        texts = (np.asarray(stars) - np.mean(stars, axis=0)) @ axes_.T
        texts *= np.abs(points).max() / max(np.abs(texts).max(), 1e-12)
        for place, color in zip(texts, colors, strict=True):
            ax.plot(*place, "*", color=color, markersize=12, markeredgecolor=INK, markeredgewidth=0.7)
        ax.plot([], [], "*", color="white", markeredgecolor=INK, markersize=9, label="class text (scaled)")
    ax.set_xlabel(f"first axis, {100 * shares[0]:.0f} % of variance")
    ax.set_ylabel(f"second axis, {100 * shares[1]:.0f} %")
    figure.legend(loc="outside right upper", fontsize=7, markerscale=1.2)
    return figure
