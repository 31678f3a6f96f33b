"""Diagrams: the map follows the graph of the report, bars and lines stand where their numbers say."""

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from thesis_lib import diagrams, figures, graph, params


def reachable(start):
    found, waiting = set(), [start]
    while waiting:
        new = {end for a, end, _ in diagrams.EDGES if a == waiting[-1]} - found
        waiting.pop()
        found |= new
        waiting += new
    return found


def test_the_map_shows_every_notebook_of_the_report():
    numbered = {name.split("_")[0] for name in params.notebooks() if name[0].isdigit()}
    assert set(diagrams.PLACES) == numbered - {"00"}
    assert len(set(diagrams.PLACES.values())) == len(diagrams.PLACES)


def test_the_map_holds_every_dependency_of_the_stages():
    jobs = graph.jobs("smoke")
    number = {name: job["notebook"].split("_")[0] for name, job in jobs.items()}
    shown = {name: job for name, job in jobs.items() if not number[name].startswith("A")}  # appendices are off the map
    needed = {(number[need], number[name]) for name, job in shown.items() for need in job["needs"]}
    assert [edge for edge in needed if edge[0] != edge[1] and edge[1] not in reachable(edge[0])] == []


def test_the_map_names_boxes_and_arrows():
    figure = diagrams.experiment_map({"04": "baseline"})
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"04", "baseline", "08", *(what for *_, what in diagrams.EDGES)} <= texts
    assert "<svg" in figures.to_svg(figure)


def test_captions_have_the_colour_of_their_object():
    actions = [(0, 2, "wait", ""), (2, 6, "cut onion", "onion"), (6, 9, "wash apple", "apple")]
    captions = [(0.5, 1, "hello", ""), (3, 5, "cut the onion", "onion"), (7, 8, "now the apple", "apple")]
    (ax,) = diagrams.caption_timeline(actions, captions).axes
    bars = [patch for patch in ax.patches if 0 < patch.get_height() < 1 and patch.get_alpha() is None]
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0.5, 0.5), (3, 2), (7, 1)]
    colors = [to_hex(bar.get_facecolor()) for bar in bars]
    assert colors[0] == diagrams.FAINT and len(set(colors)) == 3


def test_offset_curves_mark_the_cuts_and_keep_the_mean():
    frame = pd.DataFrame([(v, o, v + (o == 0)) for v in (1, 3) for o in (-1, 0, 1)], columns=["video", "offset", "fit"])
    (ax,) = diagrams.offset_curves(frame, {"front": 1, "back": 0}, {"fit": "how well"}).axes
    curves = [line for line in ax.lines if len(line.get_xdata()) == 3]
    assert np.allclose([line.get_ydata() for line in curves], [[2, 3, 2]] * 3)
    assert [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2] == [1, 0]
