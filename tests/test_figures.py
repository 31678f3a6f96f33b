"""Figures: the data behind the picture is the data that came in, colours are one palette, SVG repeats itself."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from thesis_lib import figures, palette

NAMES = list(palette.CLASSES)[:19]


def lab(colors, deuteranopia=False):
    """CIELAB of colours, as normal vision sees them or as deuteranopia does (Machado et al. 2009, severity 1)."""
    rgb = np.array([to_rgb(color) for color in colors])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    if deuteranopia:
        machado = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
        linear = np.clip(linear @ np.array(machado).T, 0, 1)
    xyz = linear @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    x, y, z = np.cbrt(np.clip(xyz / [0.9505, 1, 1.089], 0.008856, None)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


@pytest.mark.parametrize(("deuteranopia", "least"), [(False, 25), (True, 15)])
def test_all_pairs_of_classes_can_be_told_apart(deuteranopia, least):
    points = lab(figures.class_colors(NAMES), deuteranopia)
    distances = np.linalg.norm(points[:, None] - points, axis=-1) + np.eye(19) * 1e3
    assert distances.min() >= least


def test_placing_is_darker_than_cutting():
    for thing in ("tomato", "cheese", "lettuce", "cucumber"):
        light, dark = lab(figures.class_colors([f"cut_{thing}", f"place_{thing}_into_bowl"]))[:, 0]
        assert light > dark + 15


def test_colours_follow_names_not_places():
    colors = figures.class_colors(["add oil", "cut_tomato", "fly_kite", "ride_bike", "fly_kite"])
    assert colors[:2] == [palette.CLASSES["add_oil"], palette.CLASSES["cut_tomato"]]
    assert colors[2] == colors[4] != colors[3]


def test_timelines_show_the_labels_and_the_errors():
    truth, guess = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 2, 2])
    figure = figures.timelines({"truth": truth, "guess": guess}, NAMES, 0.5, errors="guess")
    strips = [ax.images[0] for ax in figure.axes]
    colors = palette.class_colors(NAMES)
    shown = strips[0].get_array()[0] / 255
    assert np.allclose(shown, [to_rgb(colors[i]) for i in truth], atol=0.003)
    assert strips[0].get_extent()[1] == 3.0 and strips[1].get_extent()[1] == 2.5
    wrong = np.all(np.isclose(strips[2].get_array()[0] / 255, to_rgb(palette.WRONG), atol=0.003), axis=1)
    assert wrong.tolist() == [False, False, False, True, False]
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "cut tomato",
        "place tomato into bowl",
        "cut cheese",
    ]


def test_timelines_take_names_and_reject_unknown_ones():
    figures.timelines({"truth": ["add_oil", "add_salt"]}, NAMES)
    with pytest.raises(ValueError, match="'fly_kite' is not among the 19"):
        figures.timelines({"truth": ["add_oil", "fly_kite"]}, NAMES)


def test_confusion_is_normalised_by_row_and_leaves_empty_rows_empty():
    counts = np.zeros((19, 19))
    counts[0, [0, 2]] = 6, 2
    figure = figures.confusion({"a": counts, "b": counts.T}, NAMES)
    shares = figure.axes[0].images[1].get_array()
    assert shares[0, 0] == 0.75 and shares[0, 2] == 0.25 and shares.mask[1:].all()
    assert [text.get_text() for text in figure.axes[0].texts] == ["75", "25"]


def test_learning_curves_draw_each_split_the_mean_and_the_band():
    history = pd.DataFrame(
        [dict(split=s, epoch=e, loss=s / e, crop=c) for s in (1, 2, 3) for e in (1, 2) for c in "ab"]
    )
    ax = figures.learning_curves(history, "loss", hue="crop").axes[0]
    assert len(ax.lines) == 2 * (3 + 1) and len(ax.collections) == 2
    means = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in means] == ["a", "b"] and np.allclose(means[0].get_ydata(), [2, 1])


def test_dot_plot_shows_means_splits_and_published_numbers():
    frame = pd.DataFrame([dict(method=m, metric="accuracy", value=v) for m in ("x", "y") for v in (0.5, 0.7)])
    published = pd.DataFrame([dict(method="x", metric="accuracy", value=0.9, source="paper")])
    ax = figures.dot_plot(frame, published).axes[0]
    drawn = [line.get_xdata().tolist() for line in ax.lines]
    assert [0.5, 0.7] in drawn and [0.9] in drawn and sum(np.allclose(xs, 0.6) for xs in drawn if len(xs) == 1) == 2
    assert not any(0.9 in line.get_xdata() for line in figures.dot_plot(frame).axes[0].lines)


def test_bars_stand_at_the_mean():
    frame = pd.DataFrame(dict(crop=["front", "front", "back", "back"], value=[0.2, 0.4, 0.5, 0.7]))
    ax = figures.bars(frame, "crop", "value", reference={"constant": 0.1}).axes[0]
    assert np.allclose([bar.get_height() for bar in ax.patches], [0.3, 0.6])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["front", "back"]


def test_paired_lines_space_sizes_evenly():
    frame = pd.DataFrame(
        [dict(videos=n, seed=s, start=t, accuracy=n * s) for n in (2, 4, 40) for s in (1, 3) for t in "pq"]
    )
    ax = figures.paired_lines(frame, "videos", "accuracy", "start").axes[0]
    means = [line for line in ax.lines if not line.get_label().startswith("_")]
    assert all(np.allclose(line.get_ydata(), [4, 8, 80]) and line.get_xdata().tolist() == [0, 1, 2] for line in means)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["2", "4", "40"]


def test_class_balance_and_segment_lengths_keep_their_shares():
    ax = figures.class_balance({"mini": np.arange(1, 20), "real": np.ones(19)}, NAMES).axes[0]
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(100)
    assert ax.get_yticklabels()[0].get_text() == "cut tomato" and np.allclose(ax.lines[0].get_xdata(), 100 / 19)
    ax = figures.segment_lengths({"truth": [1.0, 10.0], "prediction": [1.0, 1.0, 2.0, 100.0]}).axes[0]
    assert "prediction: 4 segments, median 1.5 s" in [text.get_text() for text in ax.get_legend().texts]


def test_frame_strip_shows_damaged_frames_as_boxes():
    images = [np.full((6, 8, 3), 40 * i, np.uint8) for i in range(5)]
    images[2] = None
    figure = figures.frame_strip(images, [f"frame {i}" for i in range(5)], figures.class_colors(NAMES[:5]), columns=3)
    visible = [ax for ax in figure.axes if ax.get_visible()]
    assert [len(ax.images) for ax in visible] == [1, 1, 0, 1, 1]
    assert visible[2].texts[0].get_text() == "not decodable"
    assert to_rgb(visible[1].spines["left"].get_edgecolor()) == to_rgb(figures.class_colors(NAMES)[1])


def test_similarity_strip_marks_the_truth():
    truth = np.array([0, 0, 3])
    ax = figures.similarity_strip(np.random.default_rng(0).random((19, 3)), NAMES, 2.0, truth).axes[0]
    spans = ax.collections[-1].get_segments()
    assert [span.tolist() for span in spans] == [[[0, 0], [4, 0]], [[4, 3], [6, 3]]]


def test_principal_axes_find_the_long_direction_with_one_sign():
    rng = np.random.default_rng(0)
    direction = np.array([0.6, -0.8, 0])
    vectors = rng.standard_normal((200, 1)) * 5 * direction + 0.1 * rng.standard_normal((200, 3)) + 7
    axes, shares = figures.principal_axes(vectors)
    assert np.allclose(axes[0], -direction, atol=0.02) and shares[0] > 0.99  # largest component made positive
    assert np.allclose(figures.principal_axes(vectors[::-1])[0][0], axes[0])


def test_other_pictures_build():
    rng = np.random.default_rng(0)
    assert "median" in figures.caption_lag(rng.normal(1, 2, 50)).axes[0].get_legend().texts[0].get_text()
    ax = figures.embedding_map(rng.normal(size=(30, 8)), rng.integers(0, 19, 30), NAMES, rng.normal(size=(19, 8))).axes[
        0
    ]
    assert sum(line.get_marker() == "*" for line in ax.lines) == 20  # 19 texts and the legend's
    assert figures.transitions(np.ones((19, 19)), NAMES).axes[0].get_xlabel() == "next action"


def test_svg_repeats_itself_and_rasterises_frames():
    def make():
        return figures.frame_strip([np.arange(300, dtype=np.uint8).reshape(10, 10, 3)], ["frame 3"])

    first, second = figures.to_svg(make()), figures.to_svg(make())
    assert first == second and "data:image/png;base64" in first and not re.search(r"20\d\d-\d\d-\d\d", first)
    assert "<text" not in first  # letters are paths: the same on every machine


def test_ranking_keeps_the_order_and_the_colours():
    values = pd.Series({"add_oil": 0.9, "cut_tomato": 0.25})
    ax = figures.ranking(values, dict(zip(values.index, figures.class_colors(values.index), strict=True)), "F1").axes[0]
    assert [bar.get_width() for bar in ax.patches] == [0.9, 0.25]
    assert ax.patches[0].get_y() > ax.patches[1].get_y() and ax.get_yticklabels()[0].get_text() == "add oil"
    assert ax.patches[1].get_facecolor()[:3] == pytest.approx(to_rgb(palette.CLASSES["cut_tomato"]))


def test_histogram_gives_each_distribution_its_own_hundred_per_cent():
    figure = figures.histogram({"a": np.linspace(0, 1, 50), "b": np.zeros(7)}, "cosine", bins=10)
    heights = [patch.get_xy()[:, 1].max() for patch in figure.axes[0].patches]
    assert heights == pytest.approx([10, 100])
    assert [text.get_text() for text in figure.legends[0].texts] == ["a: median 0.50", "b: median 0.00"]


def test_learning_curves_show_the_level_of_chance():
    history = pd.DataFrame({"epoch": [1, 2], "loss": [4.0, 3.0]})
    ax = figures.learning_curves(history, "loss", reference={"loss": {"chance": 4.2}}).axes[0]
    assert ax.lines[-1].get_ydata()[0] == 4.2 and ax.texts[0].get_text() == "chance"


def test_bounded_draws_every_dot_below_the_bar_of_its_group_and_names_the_odd_one():
    frame = pd.DataFrame({"split": ["1", "1", "2"], "length": [390.0, 360.0, 355.0]})
    figure = figures.bounded(frame, "split", "length", {"1": 396.0, "2": 366.0}, marked={1: "a copy"})
    lines = figure.axes[0].lines
    bars = {line.get_ydata()[0] for line in lines if len(line.get_xdata()) == 2}
    dots = [y for line in lines if line.get_linestyle() == "None" for y in line.get_ydata()]
    assert bars == {396.0, 366.0} and sorted(dots) == [355.0, 360.0, 390.0]
    assert [text.get_text() for text in figure.axes[0].texts] == ["a copy"]
