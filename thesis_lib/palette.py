"""Colours and type of every picture: 19 classes, three kinds of numbers, one matplotlib style.

Classes take a hue family from their object (tomato red, cheese yellow, lettuce green, cucumber blue-green, dressing
violet and brown, the whole dish blue); light means cutting, dark means placing. The values were moved inside their
families until the closest pair, seen with normal vision and with deuteranopia, was as far apart as the families allow.
"""

import colorsys
import functools

import matplotlib as mpl
from matplotlib.figure import Figure

TEXT_WIDTH, PAGE_WIDTH = 7.0, 10.0  # inches: a figure in the text column, a figure over the whole page

CLASSES = {
    "cut_tomato": "#ff8997",
    "place_tomato_into_bowl": "#a3101c",
    "cut_cheese": "#fff172",
    "place_cheese_into_bowl": "#e2a70a",
    "cut_lettuce": "#aaec88",
    "place_lettuce_into_bowl": "#5b9b15",
    "peel_cucumber": "#d4ffd5",
    "cut_cucumber": "#46aebc",
    "place_cucumber_into_bowl": "#045b55",
    "add_salt": "#f4c2ff",
    "add_vinegar": "#af6be2",
    "add_oil": "#aa6d54",
    "add_pepper": "#483218",
    "mix_dressing": "#7b4085",
    "add_dressing": "#92c2ff",
    "mix_ingredients": "#2e71df",
    "serve_salad_onto_plate": "#043770",
    "action_start": "#d6d6d6",
    "action_end": "#808080",
    "background": "#ececec",
}
PAPER, THESIS, OURS = "#8a8a8a", "#c8881a", "#2468b0"  # where a number comes from
SERIES = [OURS, THESIS, "#3f8f6b", "#a8436b", "#6b5aa8", "#555555"]  # methods, crops, weights: anything else compared
INK, FAINT, WRONG = "#222222", "#b8b8b8", "#c23b22"

STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": "#666666",
    "axes.linewidth": 0.6,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": "#666666",
    "ytick.color": "#666666",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "patch.linewidth": 0,
    "figure.facecolor": "white",
    "figure.dpi": 100,
    "savefig.dpi": 160,
    "svg.fonttype": "path",  # the same letters on every machine
    "svg.hashsalt": "thesis",  # the same ids in every run
}


def styled(function):
    """Run a drawing function under STYLE and leave the reader's own matplotlib settings alone."""

    @functools.wraps(function)
    def drawn(*args, **kwargs):
        with mpl.rc_context(STYLE):
            return function(*args, **kwargs)

    return drawn


def class_colors(names) -> list[str]:
    """One hex colour a class, in the order of `names`; names with spaces or underscores.

    A name outside the 19 (other data sets) gets a hue of its own, by its place among the unknown ones.
    """
    keys = [str(name).replace(" ", "_") for name in names]
    unknown = [key for key in keys if key not in CLASSES]
    hues = {
        key: colorsys.hls_to_rgb(i / len(unknown), (0.45, 0.7)[i % 2], 0.55)
        for i, key in enumerate(dict.fromkeys(unknown))
    }
    return [CLASSES.get(key) or mpl.colors.to_hex(hues[key]) for key in keys]


def plain(names) -> list[str]:
    """Class names as a reader writes them."""
    return [str(name).replace("_", " ") for name in names]


def panels(rows=1, columns=1, width=TEXT_WIDTH, height=2.8, **options):
    """A figure of its own, outside pyplot, and its axes [rows, columns]; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)
