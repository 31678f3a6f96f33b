"""Metrics against the official evaluation code (golden numbers), plain re-implementations and properties."""

import hashlib
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thesis_lib import metrics

settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

GOLDEN = Path(__file__).parent / "golden"
CASE = json.loads((GOLDEN / "metrics" / "case_a.json").read_text())
ENDS = {"asformer": "asformer", "mstcn": "exclusive"}  # official code -> our segment_end

videos = st.lists(st.integers(0, 3), min_size=1, max_size=30)
pairs = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 3), min_size=n, max_size=n) for _ in range(2)])
)


def expand(rle):
    return [label for label, count in rle for _ in range(count)]


def sequences(row):
    return expand(row["pred_rle"]), expand(row["gt_rle"])


def plain_levenshtein(a, b):
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = table[i - 1, j - 1] + (a[i - 1] != b[j - 1])
            table[i, j] = min(change, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return table[-1, -1]


def plain_hits(prediction, target, overlap):
    """Segments one by one, frames as sets: an oracle that shares nothing with the vectorised code."""

    def runs(labels):
        cuts = [0] + [i for i in range(1, len(labels)) if labels[i] != labels[i - 1]] + [len(labels)]
        return [(labels[a], set(range(a, b))) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]

    truth, used, hits = runs(target), set(), 0
    for label, frames in runs(prediction):
        ious = [len(frames & other) / len(frames | other) if label == name else 0 for name, other in truth]
        best = ious.index(max(ious))
        if ious[best] >= overlap and best not in used:
            used.add(best)
            hits += 1
    return hits


@pytest.mark.parametrize("row", CASE["random"], ids=lambda row: str(row["id"]))
def test_building_blocks_equal_the_official_code(row):
    prediction, target = sequences(row)
    assert hashlib.sha256("\n".join(prediction).encode()).hexdigest()[:16] == row["sha_pred"]
    for code, end in ENDS.items():
        official = row["official"][code]
        edit = metrics.edit_score(prediction, target, background=["background"])
        if official["edit"] == "nan":
            assert edit == 100.0  # no segment on either side: they agree, where the official code divides 0 by 0
        else:
            assert edit == pytest.approx(official["edit"], abs=1e-9)
        counts = metrics.f1_counts(prediction, target, end, background=["background"])
        if official["f_error"] is None:
            assert counts.tolist() == [official["tp"], official["fp"], official["fn"]]
            assert [100 * metrics.f1(*c) for c in counts.T] == pytest.approx(official["f1"], abs=1e-9)
        else:  # a truth of nothing but background: every predicted segment is a false alarm
            assert counts[0].tolist() == counts[2].tolist() == [0, 0, 0]
    if row.get("levenshtein_raw"):
        assert metrics.levenshtein(prediction, target) == row["levenshtein_raw"]["distance"]


@pytest.mark.parametrize("row", CASE["random"], ids=lambda row: str(row["id"]))
def test_one_video(row):
    prediction, target = sequences(row)
    if len(prediction) < len(target):
        with pytest.raises(ValueError, match="video 0: the prediction has"):
            metrics.evaluate([prediction], [target])
        return
    for code, end in ENDS.items():
        ours = metrics.evaluate([prediction], [target], segment_end=end, background=("background",))
        assert ours["accuracy"] == pytest.approx(row["correct_overlap"] / row["n_gt"], abs=1e-12)
        assert all(math.isfinite(value) for value in ours.values())
        official = row["official"][code]
        if len(prediction) == len(target) and official["f_error"] is None:
            assert [100 * ours[k] for k in ("f1@10", "f1@25", "f1@50")] == pytest.approx(official["f1"], abs=1e-9)


@pytest.mark.parametrize("code, end", ENDS.items())
def test_sums_over_videos_equal_the_official_main(code, end):
    rows = [row for row in CASE["random"] if row["id"] in CASE["aggregate_over_ids"]]
    rows = [row for row in rows if row["n_pred"] >= row["n_gt"]]
    official = CASE["aggregate"]
    assert len(rows) == len(CASE["aggregate_over_ids"])
    pairs = [sequences(row) for row in rows]
    counts = sum(metrics.f1_counts(p, y, end, ["background"]) for p, y in pairs)
    assert counts.tolist() == [official[code][k] for k in ("tp", "fp", "fn")]
    ours = metrics.evaluate(*zip(*pairs, strict=True), segment_end=end, background=["background"])
    assert 100 * ours["accuracy"] == pytest.approx(official["acc"], abs=1e-9)
    # The official code scores frames after the end of the truth too; where there are none, evaluate gives its numbers.
    exact = [(p, y) for p, y in pairs if len(p) == len(y)]
    counts = sum(metrics.f1_counts(p, y, end, ["background"]) for p, y in exact)
    ours = metrics.evaluate(*zip(*exact, strict=True), segment_end=end, background=["background"])
    assert [ours[k] for k in ("f1@10", "f1@25", "f1@50")] == [metrics.f1(*c) for c in counts.T]
    mean = np.mean([metrics.edit_score(p, y, ["background"]) for p, y in exact])
    assert ours["edit_score"] == pytest.approx(mean, abs=1e-9)


def test_conventions_differ_only_in_the_last_frame():
    target = ["a"] * 5 + ["b"]
    assert metrics.evaluate([target], [target])["f1@50"] == 1.0
    assert metrics.evaluate([target], [target], segment_end="asformer")["f1@50"] == 0.5  # golden case 5
    assert metrics.segments(target)[2].tolist() == [5, 6]
    assert metrics.segments(target, "asformer")[2].tolist() == [5, 5]


@given(videos, videos)
def test_levenshtein_equals_the_plain_table(a, b):
    assert metrics.levenshtein(a, b) == plain_levenshtein(a, b) == metrics.levenshtein(b, a)


@given(pairs, st.sampled_from([0.1, 0.25, 0.5]))
def test_f1_counts_equal_sets_of_frames(pair, overlap):
    hits, false_alarms, misses = metrics.f1_counts(*pair, overlaps=[overlap])[:, 0]
    assert hits == plain_hits(*pair, overlap)
    assert hits + false_alarms == len(metrics.segments(pair[0])[0])
    assert hits + misses == len(metrics.segments(pair[1])[0])


@given(st.lists(pairs, min_size=1, max_size=4), st.sampled_from(metrics.SEGMENT_ENDS))
@settings(max_examples=50)
def test_properties(pairs, end):
    predictions, targets = map(list, zip(*pairs, strict=True))
    scores = metrics.evaluate(predictions, targets, segment_end=end)
    assert 0 <= scores["accuracy"] <= 1 and 0 <= scores["edit_score"] <= 100
    assert 1 >= scores["f1@10"] >= scores["f1@25"] >= scores["f1@50"] >= 0
    wrong = sum(np.sum(np.array(p) != y) for p, y in pairs)  # substitutions alone turn one into the other
    assert 0 <= scores["frame_levenshtein"] <= wrong / len(pairs) + 1e-9
    renamed = metrics.evaluate(
        [[f"n{v}" for v in p] for p in predictions], [[f"n{v}" for v in y] for y in targets], end
    )
    assert renamed == scores
    longer = metrics.evaluate([p + [0, 3] for p in predictions], [np.array(y) for y in targets], end)
    assert longer == scores
    if end == "exclusive":
        perfect = {"accuracy": 1, "edit_score": 100, "frame_levenshtein": 0, "f1@10": 1, "f1@25": 1, "f1@50": 1}
        assert metrics.evaluate(targets, targets) == perfect


def test_real_videos_are_scored_in_a_blink():
    rng = np.random.default_rng(0)
    a, b = (np.repeat(rng.integers(0, 19, 60), 200) for _ in range(2))
    begin = time.process_time()
    metrics.levenshtein(a, b)
    assert time.process_time() - begin < 2.0  # 0.3 s where this was written


@pytest.mark.parametrize(
    "predictions, targets, message",
    [
        ([], [], "0 predictions for 0 targets"),
        ([[1]], [[1], [2]], "1 predictions for 2 targets"),
        ([[1], [1, 2]], [[1], [1, 2, 3]], "video 1: the prediction has 2 frames, its target 3"),
        ([[1], []], [[1], [1]], "video 1: the prediction has 0 frames"),
        ([[1], []], [[1], []], "video 1: the target is empty"),
        ([["a"]], [[1]], "video 0: .* one kind"),
        ([[[1, 2]]], [[[1, 2]]], "one int or string per frame"),
        ([[0.5]], [[0.5]], "one int or string per frame"),
    ],
)
def test_mistakes_name_the_video(predictions, targets, message):
    with pytest.raises(ValueError, match=message):
        metrics.evaluate(predictions, targets)


def test_unknown_segment_end():
    with pytest.raises(ValueError, match="exclusive, asformer"):
        metrics.evaluate([[1]], [[1]], segment_end="inclusive")


def test_background_counts_for_accuracy_and_frames_only():
    prediction, target = [9, 1, 1, 9], [9, 9, 1, 9]
    scores = metrics.evaluate([prediction], [target], background=[9])
    assert scores["accuracy"] == 0.75 and scores["frame_levenshtein"] == 1
    assert scores["edit_score"] == 100 and scores["f1@50"] == 1
    nothing = metrics.evaluate([[9, 9]], [[9, 9]], background=[9])
    assert nothing["edit_score"] == 100 and nothing["f1@50"] == 0


def test_confusion_and_class_f1():
    predictions, targets = [[0, 0, 1, 1], [1, 1]], [[0, 1, 1, 1], [0, 1]]
    matrix = metrics.confusion(predictions, targets, 3)
    assert matrix.tolist() == [[1, 1, 0], [1, 3, 0], [0, 0, 0]]
    assert metrics.class_f1(matrix) == pytest.approx([0.5, 0.75, math.nan], nan_ok=True)
    accuracy = metrics.evaluate(predictions, targets)["accuracy"]
    assert matrix.trace() / matrix.sum() == pytest.approx(accuracy)
    with pytest.raises(ValueError, match="outside 0..1"):
        metrics.confusion([[2]], [[1]], 2)
    with pytest.raises(ValueError, match="outside 0..1"):
        metrics.confusion([[-1]], [[1]], 2)


def test_constant_class():
    train, test = [["cut", "cut"], ["peel"]], [["peel", "peel", "cut"]]
    assert metrics.majority_class(train) == "cut"
    assert metrics.constant_class_accuracy(test) == pytest.approx(2 / 3)
    assert metrics.constant_class_accuracy(test, metrics.majority_class(train)) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="no labels"):
        metrics.majority_class([])


def test_paired_test_is_students():
    a, b = [0.813, 0.810, 0.814, 0.802, 0.842], [0.758, 0.780, 0.832, 0.802, 0.792]
    result = metrics.paired_test(a, b)
    d = np.subtract(a, b)
    assert result["mean_difference"] == pytest.approx(d.mean()) and result["n"] == 5
    assert result["t"] == pytest.approx(d.mean() / (d.std(ddof=1) / 5**0.5))
    assert 0.1 < result["p"] < 0.2
    with_gap = metrics.paired_test(a + [math.nan, 1.0], b + [0.3, math.nan])
    assert with_gap == pytest.approx(result)
    assert math.isnan(metrics.paired_test([1.0], [0.5])["p"])
    assert math.isnan(metrics.paired_test([0.3, 0.4], [0.2, 0.3])["t"])  # equal up to rounding: no spread to test with
    assert metrics.paired_test([], [])["n"] == 0
    with pytest.raises(ValueError, match="two lists of one length"):
        metrics.paired_test([1, 2], [1])


@given(st.lists(st.integers(0, 18), min_size=1, max_size=40), st.integers(1, 30), st.data())
def test_seconds_to_frames_and_back(seconds, fps, data):
    length = data.draw(st.integers((len(seconds) - 1) * fps + fps // 2 + 1, len(seconds) * fps))
    frames = metrics.to_frames(seconds, length, fps)
    assert frames.tolist() == [seconds[f // fps] for f in range(length)]
    assert metrics.to_seconds(frames, fps).tolist() == seconds


def test_resample_takes_the_middle_and_holds_the_last():
    frames = np.arange(70)
    assert metrics.to_seconds(frames, 30).tolist() == [15, 45, 69]
    assert metrics.resample(frames, 30, 15).tolist() == list(range(1, 70, 2))
    assert metrics.to_frames(["a", "b"], 5, 2).tolist() == ["a", "a", "b", "b", "b"]
    with pytest.raises(ValueError, match="middle, as_published"):
        metrics.to_seconds(frames, 30, rule="nearest")


def test_painting_equals_the_official_aligner():
    with np.load(GOLDEN / "windows" / "paint_a.npz") as case:
        for j, length in enumerate(case["in_T"]):
            ours = metrics.paint(case[f"in_start{j}"], case[f"in_end{j}"], case[f"in_label{j}"], length)
            np.testing.assert_array_equal(ours, case[f"out_video_targets{j}"])


def test_seconds_as_published_equal_the_thesis_code():
    with np.load(GOLDEN / "windows" / "gt_a.npz") as case:
        for j, length in enumerate(case["in_T"]):
            frames = np.repeat(case[f"in_run_label{j}"], case[f"in_run_len{j}"])
            ours = metrics.to_seconds(frames, 30, rule="as_published", length=length)
            np.testing.assert_array_equal(ours, case[f"out_video_targets{j}"])


# -- EgoMCQ ------------------------------------------------------------------------------------------------------------


def test_egomcq_by_hand():
    """Type 1 is between videos: two of three right; type 2 within one: one of two."""
    similarities = np.eye(5)[[0, 1, 2, 3, 4]] + np.arange(5) / 100
    found = metrics.egomcq_accuracy(similarities, [0, 1, 0, 3, 0], [1, 1, 1, 2, 2])
    assert found == {"inter": pytest.approx(2 / 3), "intra": 0.5}
    found = metrics.egomcq_accuracy(similarities[:1], [0], [2])
    assert found["intra"] == 1 and np.isnan(found["inter"])


def test_egomcq_of_a_guess_is_a_fifth():
    rng = np.random.default_rng(0)
    found = metrics.egomcq_accuracy(rng.random((20000, 5)), rng.integers(5, size=20000), rng.integers(1, 3, size=20000))
    assert found == {"inter": pytest.approx(0.2, abs=0.02), "intra": pytest.approx(0.2, abs=0.02)}


def test_egomcq_wants_an_answer_and_a_type_for_each_question():
    with pytest.raises(ValueError, match="EgoMCQ needs similarities"):
        metrics.egomcq_accuracy(np.zeros((2, 5)), [0], [1, 2])
    with pytest.raises(ValueError, match="a question of type 3; it is 1"):
        metrics.egomcq_accuracy(np.zeros((2, 5)), [0, 1], [1, 3])


# -- smoothing, calibration, segments ---------------------------------------------------------------------------------


def plain_majority(labels, width):
    found = []
    for t, label in enumerate(labels):
        window = labels[max(0, t - width // 2) : t - width // 2 + width]
        counts = {c: window.count(c) for c in sorted(set(window))}
        most = max(counts.values())
        found.append(label if counts.get(label) == most else next(c for c in counts if counts[c] == most))
    return found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(1, 50))
def test_majority_equals_the_plain_loop(labels, width):
    assert metrics.majority(labels, width).tolist() == plain_majority(labels, width)


def test_majority_of_names_and_of_nothing():
    assert metrics.majority(["cut", "peel", "cut", "cut"], 3).tolist() == ["cut", "cut", "cut", "cut"]
    with pytest.raises(ValueError, match="width of at least 1"):
        metrics.majority([1, 2], 0)


def test_calibration_error_against_the_definition():
    rng = np.random.default_rng(0)
    sure = rng.uniform(0, 1, 4000)
    right = rng.uniform(0, 1, 4000) < sure**2
    counts = metrics.reliability(sure, right, 15)
    assert counts[:, 0].sum() == 4000 and counts[:, 2].sum() == right.sum()
    expected = 0.0
    for k in range(15):
        inside = (sure >= k / 15) & (sure < (k + 1) / 15)
        expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert metrics.calibration_error(counts) == pytest.approx(expected)
    halves = metrics.reliability(sure[:100], right[:100]) + metrics.reliability(sure[100:], right[100:])
    np.testing.assert_allclose(halves, counts)


def test_calibration_of_who_is_always_sure_is_the_share_of_errors():
    counts = metrics.reliability(np.ones(10), np.arange(10) < 7)
    assert metrics.calibration_error(counts) == pytest.approx(0.3)


def test_segments_a_video():
    assert metrics.segment_counts([[0, 1, 0, 1], [2, 2]], [[0, 0, 1, 1], [2, 2]]) == (2.5, 1.5)


def test_places_are_those_of_resampled_labels():
    for fps, fps_out in ((30, 1), (1, 30), (30, 15), (15, 30), (8, 3)):
        places = metrics.places(50, fps, fps_out, 70)
        assert np.array_equal(metrics.resample(np.arange(50), fps, fps_out, 70), places)
