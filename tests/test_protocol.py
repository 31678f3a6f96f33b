"""The two grids: what a second and a frame of one prediction are worth, and which rows they leave."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thesis_lib import metrics, paths, protocol, results

FPS = 4
CLASSES = ["cut", "peel", "mix"]
# Frames a class: video "a" changes within its seconds 1 and 2, "b" at a whole second. Eleven frames end within one.
RUNS = {"a": [(0, 5), (1, 5), (2, 1)], "b": [(1, 8), (0, 4)]}
LABELS = {name: np.concatenate([np.full(n, label) for label, n in runs]) for name, runs in RUNS.items()}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "groundTruth").mkdir()
    (tmp_path / "mapping.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(CLASSES)))
    for name, labels in LABELS.items():
        (tmp_path / f"groundTruth/{name}.txt").write_text("".join(f"{CLASSES[label]}\n" for label in labels))
    return tmp_path


@pytest.fixture
def report(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "REPORTS", tmp_path / "reports")
    return results.Report("06_zero_shot", "mini")


def seconds():
    """The best there is with one label a second: (names, predictions, targets)."""
    targets = [metrics.to_seconds(labels, FPS) for labels in LABELS.values()]
    return list(LABELS), targets, targets


def test_each_second_fills_its_frames_up_to_the_last_label(root):
    frames, targets = protocol.to_frames(["a", "b"], [[0, 1, 2], [2, 1, 0]], root, FPS)
    assert [row.tolist() for row in frames] == [[0] * 4 + [1] * 4 + [2] * 3, [2] * 4 + [1] * 4 + [0] * 4]
    assert all(np.array_equal(found, LABELS[name]) for found, name in zip(targets, "ab", strict=True))


def test_predictions_too_short_by_a_second_keep_their_last_label(root):
    """Features may end before the labels do: the common protocol still asks for every labelled frame."""
    frames, targets = protocol.to_frames(["b"], [[1, 1]], root, FPS)
    assert frames[0].tolist() == [1] * 12 and len(targets[0]) == 12


def test_other_numbers_of_videos_are_refused(root):
    with pytest.raises(ValueError):
        protocol.to_frames(["a", "b"], [[0, 1, 2]], root, FPS)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.sampled_from([1, 2, 5, 8, 15, 30]))
def test_to_frames_and_back_is_the_same(labels, fps):
    frames = metrics.to_frames(labels, len(labels) * fps, fps)
    (found,), (target,) = protocol.to_seconds([frames], [frames], fps)
    assert found.tolist() == target.tolist() == labels


def test_seconds_take_the_label_in_their_middle():
    (found, *_), _ = protocol.to_seconds([LABELS["a"]], [LABELS["a"]], FPS)
    assert found.tolist() == [LABELS["a"][2], LABELS["a"][6], LABELS["a"][10]] == [0, 1, 2]


def test_both_grids_have_all_metrics_in_their_units(root, report):
    row = dict(method="VideoCLIP", weights="own", split=2, epoch=None, head="text")
    scores = protocol.add_both_grids(report, *seconds(), root=root, fps=FPS, **row)
    report.save()
    rows = results.load("mini")
    assert len(rows) == 16 and set(rows["metric"]) == {*protocol.UNITS, "frame_levenshtein"}
    units = rows.pivot(index="metric", columns="protocol", values="unit")
    for grid, length in ((protocol.FRAMES, "frames"), (protocol.SECONDS, "seconds")):
        assert units[grid].to_dict() == protocol.UNITS | {"frame_levenshtein": length}
    assert set(rows["method"]) == {"VideoCLIP"} and set(rows["split"]) == {2} and set(rows["head"]) == {"text"}
    assert metrics.evaluate(*seconds()[1:]).items() <= scores.items(), "returned are those a second"
    assert scores["segments"] == scores["true_segments"] == 2.5
    by_hand = rows[rows["protocol"] == protocol.SECONDS].set_index("metric")["value"]
    assert by_hand.to_dict() == pytest.approx({name: scores[name] for name in by_hand.index})


def test_perfect_seconds_are_not_perfect_frames(root, report):
    """In "a", frame 4 of class 0 lies in a second of class 1, frames 8 and 9 of class 1 in a second of class 2."""
    protocol.add_both_grids(report, *seconds(), root=root, fps=FPS, method="m", weights="w", split=1, epoch=None)
    rows = pd.DataFrame(report.rows.values()).pivot(index="metric", columns="protocol", values="value")
    assert rows.loc["accuracy", protocol.SECONDS] == 1 and rows.loc["frame_levenshtein", protocol.SECONDS] == 0
    assert rows.loc["accuracy", protocol.FRAMES] == pytest.approx((11 + 12 - 3) / (11 + 12))
    assert rows.loc["edit_score", protocol.FRAMES] == 100, "the order of segments is right on both"


def test_one_grid_can_be_scored_alone(report):
    labels = list(LABELS.values())
    scores = protocol.add_scores(report, labels, labels, protocol=protocol.FRAMES, method="m", weights="w", split=1,
                                 epoch=3)  # fmt: skip
    assert len(report.rows) == 8 and scores["accuracy"] == 1
    assert {row["unit"] for row in report.rows.values() if row["metric"] == "frame_levenshtein"} == {"frames"}


def test_the_rule_for_seconds_is_that_of_the_targets_alone():
    frames = np.repeat([0, 1, 2], [4, 6, 2])  # class 2 has two of the four frames of its second
    found, targets = protocol.to_seconds([frames], [frames], FPS, "as_published")
    assert found[0].tolist() == [0, 1, 2]
    assert targets[0].tolist() == metrics.to_seconds(frames, FPS, "as_published").tolist()
    assert protocol.to_seconds([frames], [frames], FPS)[1][0].tolist() == [0, 1, 2]


def test_smoothed_predictions_have_a_protocol_of_their_own(report):
    flickering = np.tile([0, 0, 0, 1, 0, 0], 10)
    (found,) = protocol.smoothed([flickering], 3, 1)
    assert found.tolist() == [0] * 60
    assert np.array_equal(protocol.smoothed([flickering], 0.3, 1)[0], flickering), "less than a label is nothing"
    assert protocol.smoothed([np.repeat(flickering, FPS)], 3, FPS)[0].tolist() == [0] * 240, "seconds, not labels"
    name = protocol.with_filter(protocol.SECONDS, 3)
    assert name == "one label a second, majority of 3 s" and protocol.with_filter(protocol.FRAMES, 0) == protocol.FRAMES
    protocol.add_scores(report, [found], [flickering], protocol=name, method="m", weights="w", split=1, epoch=None)
    rows = {row["metric"]: row for row in report.rows.values()}
    assert rows["frame_levenshtein"]["unit"] == "seconds"
    assert (rows["segments"]["value"], rows["true_segments"]["value"]) == (1, 21)
