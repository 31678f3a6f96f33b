"""Filmstrips show the frames that came in, under their numbers."""

import numpy as np
import pytest

from thesis_lib import figures, filmstrips


def test_frames_are_shown_in_their_rows():
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, 255, (6, 4, 5, 3)).astype(np.uint8) for name in ("input", "masked")}
    figure = filmstrips.filmstrips(rows, every=2)
    axes = np.array(figure.axes).reshape(2, 3)
    for line, (name, frames) in zip(axes, rows.items(), strict=True):
        assert line[0].get_ylabel() == name
        assert all((ax.images[0].get_array() == frame).all() for ax, frame in zip(line, frames[::2], strict=True))
    assert [ax.get_title("center") for ax in axes[0]] == ["0", "2", "4"]
    assert not any(ax.get_title("center") for ax in axes[1])
    assert figures.to_svg(figure) == figures.to_svg(filmstrips.filmstrips(rows, every=2))


def test_clips_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="the same frames and size"):
        filmstrips.filmstrips({"a": np.zeros((2, 4, 4, 3), np.uint8), "b": np.zeros((3, 4, 4, 3), np.uint8)})
