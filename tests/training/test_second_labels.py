"""Seconds and their labels: as far as the shorter one, or as the thesis had it; fewer videos are part of more."""

import numpy as np
import pytest

from thesis_lib.training import second_labels

FPS = 4.0


@pytest.fixture
def root(tmp_path):
    """Labels of 3 seconds and 1 frame (long), and of 2 seconds (short)."""
    for folder in ("groundTruth", "splits"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mapping.txt").write_text("0 cut\n1 mix\n")
    frames = {"long": ["cut"] * 6 + ["mix"] * 7, "short": ["mix"] * 8}
    for name, labels in frames.items():
        (tmp_path / f"groundTruth/{name}.txt").write_text("\n".join(labels) + "\n")
    (tmp_path / "splits/test.split2.bundle").write_text("short.txt\nlong.txt\n")
    return tmp_path


def seen(name):
    """Two numbers a second, five seconds of each video."""
    return np.arange(10.0).reshape(5, 2) + len(name)


def test_both_end_where_the_shorter_one_does(root):
    short, long = second_labels.read(seen, root, 2, "test", FPS)
    assert (short[0], long[0]) == ("short", "long"), "in the order of the split"
    assert short[2].tolist() == [1, 1] and long[2].tolist()[:3] == [0, 1, 1], "the middle of a second decides"
    for name, inputs, labels in (short, long):
        assert len(inputs) == len(labels) and labels.dtype == np.int64
        np.testing.assert_array_equal(inputs, seen(name)[: len(labels)])
    few = second_labels.read(lambda name: seen(name)[:1], root, 2, "test", FPS)
    assert [len(labels) for _, _, labels in few] == [1, 1]


def test_as_published_every_second_of_the_inputs_stays_and_what_has_no_label_is_class_0(root):
    short, long = second_labels.read(seen, root, 2, "test", FPS, "as_published")
    assert len(short[2]) == len(long[2]) == len(short[1]) == 5
    assert short[2].tolist() == [1, 1, 0, 0, 0]


def test_fewer_videos_are_a_part_of_more_in_their_order():
    videos = list("abcdefgh")
    found = [second_labels.some(videos, count, seed=3) for count in range(1, 9)]
    assert [len(one) for one in found] == list(range(1, 9)) and found[-1] == second_labels.some(videos, 0, 3) == videos
    assert all(set(fewer) < set(more) for fewer, more in zip(found, found[1:], strict=False))
    assert all(one == sorted(one) for one in found) and found[2] != second_labels.some(videos, 3, seed=4)
