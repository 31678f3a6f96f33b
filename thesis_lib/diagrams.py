"""Pictures that explain: the map of the experiments, a narrated video beside what is said in it, labels moved along
features. Plain values in, a matplotlib Figure out.
"""

import textwrap

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from thesis_lib.charts import learning_curves
from thesis_lib.palette import FAINT, INK, OURS, PAGE_WIDTH, PAPER, SERIES, THESIS, panels, styled

PLACES = {  # notebook: column, row of the map
    "01": (0, 1),
    "02": (1, 1),
    "03": (2, 0),
    "04": (3, 0),
    "05": (2, 2),
    "06": (3, 1),
    "07": (3, 2),
    "08": (4, 1),
}
EDGES = [  # what a notebook gets from another one
    ("01", "02", "videos,\ncaptions"),
    ("02", "03", "I3D vectors,\none a frame"),
    ("02", "06", "S3D vectors, one a second"),
    ("02", "05", "S3D vectors,\none a second"),
    ("03", "04", "where\nto cut"),
    ("05", "06", "weights"),
    ("05", "07", "weights"),
    ("04", "08", "rows of\nnumbers"),
    ("06", "08", "rows of\nnumbers"),
    ("07", "08", "rows of\nnumbers"),
]
STREAMS = {"03": OURS, "04": OURS, "05": THESIS, "06": THESIS, "07": THESIS}  # vision alone; video and text


@styled
def experiment_map(titles: dict[str, str]) -> Figure:
    """Notebooks as boxes, what flows between them as arrows. titles: {"01": what the notebook is called, ...}."""
    figure, axes = panels(width=PAGE_WIDTH, height=4.3)
    ax = axes[0, 0]
    ax.set(xlim=(-0.5, 4.5), ylim=(2.5, -0.75))
    ax.axis("off")
    half_width, half_height = 0.33, 0.3
    for start, end, what in EDGES:
        (x0, y0), (x1, y1) = PLACES[start], PLACES[end]
        if x0 == x1:
            ends = (x0, y0 + half_height), (x1, y1 - half_height)
        else:
            ends = (x0 + half_width, y0 + 0.14 * (y1 - y0)), (x1 - half_width, y1 - 0.14 * (y1 - y0))
        ax.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "-|>", "color": PAPER, "lw": 1.1, "shrinkB": 2})
        middle = ((ends[0][0] + ends[1][0]) / 2, (ends[0][1] + ends[1][1]) / 2)
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "none"}
        ax.text(*middle, what, ha="center", va="center", fontsize=7, color="#555555", bbox=box, linespacing=1.1)
    for number, (x, y) in PLACES.items():
        color = STREAMS.get(number, FAINT)
        place, size = (x - half_width, y - half_height), (2 * half_width, 2 * half_height)
        patch = FancyBboxPatch(
            place, *size, boxstyle="round,pad=0,rounding_size=0.05", facecolor="white", edgecolor=color, linewidth=1.8
        )
        ax.add_patch(patch)
        ax.text(x, y - 0.12, number, ha="center", va="center", fontsize=12, fontweight="bold", color=INK)
        ax.text(x, y + 0.1, textwrap.fill(titles.get(number, ""), 18), ha="center", va="center", fontsize=8)
    for x, text, color in ((2.5, "vision alone", OURS), (2.5, "video and text", THESIS)):
        y = -0.5 if color == OURS else 2.45
        ax.text(x, y, text, ha="center", va="center", fontsize=9, fontweight="bold", color=color)
    return figure


@styled
def caption_timeline(actions, captions) -> Figure:
    """A narrated video: its actions as columns in time, each caption as a bar with its text, one under the other.

    actions: [(start s, end s, name, object)], captions: [(start s, end s, text, object)]; what has the same object has
    the same colour, what has none ("") is grey.
    """
    things = dict.fromkeys(thing for *_, thing in actions if thing)
    colors = {thing: SERIES[i % len(SERIES)] for i, thing in enumerate(things)}
    figure, axes = panels(width=PAGE_WIDTH, height=0.19 * len(captions) + 1.3)
    ax, last = axes[0, 0], max(end for _, end, *_ in actions)
    for start, end, name, thing in actions:
        ax.axvspan(start, end, color=colors.get(thing, FAINT), alpha=0.13, linewidth=0)
        ax.axvline(start, color="white", linewidth=2, zorder=0.5)
        text = textwrap.fill(name, 9, break_long_words=False)
        ax.text((start + end) / 2, -0.9, text, ha="center", va="bottom", fontsize=7, color=INK)
    for row, (start, end, text, thing) in enumerate(captions):
        ax.barh(row, end - start, left=start, height=0.72, color=colors.get(thing, FAINT))
        left = start > 0.6 * last  # the text stands where there is room
        ax.text(start - 0.2 if left else end + 0.2, row, text, va="center", ha="right" if left else "left", fontsize=7)
    ax.set(ylim=(len(captions), -0.7), xlim=(0, last), xlabel="time, s", yticks=[])
    ax.spines["left"].set_visible(False)
    return figure


def cut_colors(cuts) -> dict[str, str]:
    """One colour a cut, the same in every figure."""
    return dict(zip(cuts, SERIES[1:], strict=False))


@styled
def offset_curves(frame, cuts, labels) -> Figure:
    """How well labels fit the features, by how many vectors they are moved: a thin line a video, mean and spread.

    frame: columns video, offset and those of labels {column: axis label}. cuts: {name: offset}, drawn as dashed lines.
    Videos differ in level, which says nothing about offsets: each curve is moved to the mean level of all.
    """
    level = frame.groupby("video")[list(labels)].transform("mean")
    moved = frame.assign(**{column: frame[column] - level[column] + frame[column].mean() for column in labels})
    figure = learning_curves(moved, list(labels), x="offset", unit="video", labels=labels, width=PAGE_WIDTH)
    for ax in figure.axes:
        for name, offset in cuts.items():
            color = cut_colors(cuts)[name]
            ax.axvline(offset, color=color, linestyle="--", linewidth=1.1)
            ax.annotate(
                name,
                (offset, 0),
                (3, 3),
                ("data", "axes fraction"),
                "offset points",
                color=color,
                fontsize=8,
                rotation=90,
            )
        ax.set_xlabel("vectors before the first label")
    return figure
