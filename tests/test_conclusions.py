"""Conclusions: each sentence says what its numbers allow, and nothing where they are missing."""

import numpy as np
import pandas as pd
import pytest

from thesis_lib import conclusions, metrics, protocol

NAN = float("nan")


def paired(difference, p, n, **more):
    return {"mean_difference": difference, "p": p, "n": n} | more


def rows(values, grid=protocol.FRAMES, metric="accuracy", **more):
    """Tidy rows of {method: values of splits 1, 2, ...}."""
    about = {"weights": "", "epoch": None, "metric": metric, "unit": "0..1", "protocol": grid} | more
    found = [about | {"method": m, "split": k, "value": v} for m, vs in values.items() for k, v in enumerate(vs, 1)]
    return pd.DataFrame(found).astype({"split": "Int64", "epoch": "Int64"})


def few_rows(pretrained, scratch, videos=2, head="text"):
    """Five seeds with and without pretraining."""
    about = {"method": "few", "metric": "accuracy", "protocol": protocol.SECONDS, "videos": videos, "head": head}
    found = [
        about | {"weights": weights, "seed": seed, "split": seed + 1, "value": value}
        for weights, values in (("reference", pretrained), ("scratch", scratch))
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(found)


@pytest.mark.parametrize(
    "test, expected",
    [
        (paired(NAN, NAN, 0), "not run"),
        (paired(0.1, 0.001, 2), "too few"),
        (paired(0.1, 0.049, 5), "better"),
        (paired(-0.1, 0.049, 5), "worse"),
        (paired(0.1, 0.05, 5), "undecided"),
        (paired(0.1, 0.01, 5, p_holm=0.06), "undecided"),
        (paired(0.1, NAN, 5), "undecided"),
        (paired(0.0, NAN, 5), "equal"),
    ],
)
def test_what_a_test_allows_to_say(test, expected):
    assert conclusions.outcome(test) == expected
    said = conclusions.compare("A", "B", test)
    claims = {"better": "A is better than B", "worse": "A is worse than B", "undecided": "A and B cannot be told apart"}
    for name, claim in claims.items():
        assert (claim in said) == (name == expected), said


def test_sentences_carry_their_numbers():
    said = conclusions.compare("A", "B", paired(-0.1234, 0.0004, 5, p_holm=0.0008), "F1@50")
    assert said == "A is worse than B: −12.3 points of F1@50 (paired t-test over 5 splits, p < 0.001 after Holm)."
    assert conclusions.compare("A", "B", paired(0.01, 0.2, 2)).endswith(
        "+1.0 points of accuracy on 2 splits, too few for a test."
    )
    assert conclusions.compare("A", "B", paired(NAN, NAN, 0)) == "A against B: not run."
    assert conclusions.compare("A", "B", paired(0.02, NAN, 5)).endswith("which no t-test can judge).")


def test_nothing_was_run():
    empty = pd.DataFrame(columns=["method", "weights", "split", "epoch", "metric", "value", "unit", "protocol"])
    frames = conclusions.of_methods(empty, protocol.FRAMES)
    assert frames["method"].tolist() == [*conclusions.METHODS, conclusions.CONSTANT] and frames["value"].isna().all()
    for family in conclusions.FAMILIES:
        assert {conclusions.outcome(test) for _, test in conclusions.tests(frames, family).iterrows()} == {"not run"}
        assert "not run" in conclusions.grouped(frames, family)
    few = conclusions.few_labels(empty)
    assert conclusions.answer(few) == "Not run" and "was not run" in conclusions.helps(few)
    assert "not run" in conclusions.zero_shot(frames) and "not run" in conclusions.control(empty)
    assert conclusions.overview(frames, ["accuracy", "f1@50"]).shape == (8, 5)
    assert not len(conclusions.as_table10(frames, frames)) and conclusions.lengths(frames) == ""


def test_the_classifier_the_last_epoch_and_one_value_count():
    tuned = conclusions.TUNED
    measured = [
        rows({tuned: [0.5, 0.6]}, head="classifier", epoch=15),
        rows({tuned: [0.9, 0.9]}, head="classifier", epoch=8),
        rows({tuned: [0.8, 0.8]}, head="text", epoch=15),
        rows({tuned: [0.7, 0.7]}, head="classifier", epoch=15, videos=2),
        rows({tuned: [0.1, 0.1]}, protocol.SECONDS, head="classifier", epoch=15),
        rows({conclusions.CONSTANT: [0.1, 0.2]}, notebook="04"),
        rows({conclusions.CONSTANT: [0.1, 0.2]}, notebook="06"),
    ]
    frames = conclusions.of_methods(pd.concat(measured), protocol.FRAMES)
    assert frames.loc[frames["method"] == tuned, "value"].tolist() == [0.5, 0.6]
    assert frames.loc[frames["method"] == conclusions.CONSTANT, "value"].tolist() == [0.1, 0.2]
    assert conclusions.lengths(frames) == ""
    smoke = pd.concat(rows({name: [0.5]}, epoch=n) for name, n in ((conclusions.OWN_8, 1), (tuned, 2)))
    said = conclusions.lengths(conclusions.of_methods(smoke, protocol.FRAMES))
    assert said == " In this run “8 epochs” are 1 and “15 epochs” are 2."


def test_the_family_is_paired_by_split_and_corrected():
    base, tuned = [0.80, 0.81, 0.79, 0.82, 0.80], [0.85, 0.87, 0.83, 0.88, 0.85]
    frames = conclusions.of_methods(
        rows({conclusions.BASELINE: base, conclusions.TUNED: tuned, conclusions.OWN_15: base[:4]}), protocol.FRAMES
    )
    tests = conclusions.tests(frames, "baseline")
    mine = tests.loc[(conclusions.TUNED, conclusions.BASELINE)]
    assert mine["p"] == pytest.approx(metrics.paired_test(tuned, base)["p"]) == pytest.approx(mine["p_holm"])
    assert conclusions.outcome(mine) == "better"
    assert conclusions.outcome(tests.loc[(conclusions.OWN_15, conclusions.BASELINE)]) == "equal"
    said = conclusions.grouped(frames, "baseline")
    assert "better than ASFormer: VideoCLIP after 15 epochs (public weights) +5.2;" in said
    assert said.index("better") < said.index("equal") < said.index("not run")
    table = conclusions.overview(frames, ["accuracy", "f1@50"])
    assert list(table.index) == [*conclusions.METHODS, conclusions.CONSTANT]
    assert table.loc[conclusions.TUNED, "Δ accuracy"] == pytest.approx(0.052)
    assert table.loc[conclusions.BASELINE, "p (Holm)"] == "–" and np.isnan(table.loc[conclusions.ZERO, "p (Holm)"])


def test_two_splits_get_no_p():
    frames = conclusions.of_methods(
        rows({conclusions.BASELINE: [0.5, 0.6], conclusions.TUNED: [0.6, 0.8]}), protocol.FRAMES
    )
    table = conclusions.overview(frames, ["accuracy"])
    assert table.loc[conclusions.TUNED, ["p (paired)", "p (Holm)"]].tolist() == ["too few"] * 2
    assert table.loc[conclusions.TUNED, "Δ accuracy"] == pytest.approx(0.15)


def test_table10_takes_each_method_by_its_protocol():
    one, other = ({name: [value] for name in conclusions.METHODS} for value in (0.1, 0.2))
    frames = conclusions.of_methods(rows(one), protocol.FRAMES)
    seconds = conclusions.of_methods(rows(other, protocol.SECONDS), protocol.SECONDS)
    values = conclusions.as_table10(frames, seconds).set_index("method")["value"]
    assert values[conclusions.BASELINE] == 0.1 and (values.drop(conclusions.BASELINE) == 0.2).all() and len(values) == 7


@pytest.mark.parametrize(
    "gains, expected",
    [
        ({2: 0.1, 0: 0.08}, "Yes"),
        ({2: 0.1, 0: 0.0}, "In part: a gain can be shown in 1 of 2 comparisons"),
        ({2: 0.0, 0: 0.0}, "No effect can be shown"),
        ({2: -0.1, 0: 0.0}, "No: "),
        ({2: 0.1, 0: -0.1}, "It depends"),
    ],
)
def test_the_answer_follows_the_tests(gains, expected):
    noise = np.array([0.010, -0.012, 0.004, -0.006, 0.004])
    few = conclusions.few_labels(
        pd.concat(few_rows(0.6 + gain + noise, 0.6 + noise[::-1], videos) for videos, gain in gains.items())
    )
    assert few.index.get_level_values("videos").tolist() == [2, 0], "all videos come last"
    assert conclusions.answer(few).startswith(expected), few
    said = conclusions.helps(few)
    assert ("pretraining helps with 2 " in said) == (gains[2] > 0)
    assert ("hurts with" in said) == any(gain < 0 for gain in gains.values())


def test_two_seeds_answer_nothing():
    few = conclusions.few_labels(few_rows([0.9, 0.91], [0.1, 0.12]))
    assert conclusions.answer(few) == "Too few runs to say" and "too few" in conclusions.helps(few)


def test_few_labels_are_paired_by_seed():
    few = conclusions.few_labels(few_rows([0.6, 0.7, 0.9], [0.5, 0.6, 0.7]))
    assert few.loc[("text", 2), "mean_difference"] == pytest.approx(0.4 / 3) and few.loc[("text", 2), "n"] == 3
    assert float(few.loc[("text", 2), "pretrained"]) == pytest.approx(2.2 / 3)


@pytest.mark.parametrize(
    "true, permuted, expected",
    [(0.3, 0.05, "the words carry"), (0.3, 0.2, "does not come from the words"), (0.1, 0.05, "too small to tell")],
)
def test_control(true, permuted, expected):
    measured = [
        rows({conclusions.CONTROL.format("true"): [true] * 2}, protocol.SECONDS, seed=0),
        rows({conclusions.CONTROL.format("permuted"): [permuted] * 2}, protocol.SECONDS, seed=1),
        rows({conclusions.CONSTANT: [0.12, 0.12]}, protocol.SECONDS),
    ]
    said = conclusions.control(pd.concat(measured))
    assert expected in said and "mean of 1 seed)" in said


def test_zero_shot_in_multiples_of_the_constant_class():
    frames = conclusions.of_methods(
        rows({conclusions.ZERO: [0.3, 0.5], conclusions.CONSTANT: [0.1, 0.1]}), protocol.FRAMES
    )
    assert "accuracy 0.400 against 0.100 of the constant class, 4.0 times" in conclusions.zero_shot(frames)


def test_synthetic_is_what_any_notebook_took_from_the_embedded_corpus():
    real, drawn, unknown = ({"provenance": {"parameters": p}} for p in ({"data_root": "d"}, {"data_root": ""}, {}))
    assert conclusions.is_synthetic([real, drawn]) and not conclusions.is_synthetic([real, unknown])
    assert "NOT 50SALADS" in conclusions.banner(True) and "NOT" not in conclusions.banner(False)


def test_run_times():
    about = {"wall_time_s": 2.5, "peak_memory_mb": 900}
    times = conclusions.run_times([{"notebook": "04_baseline", "provenance": about, "rows": [{}] * 3}])
    assert times.loc["04_baseline"].tolist() == [2.5, 900, 3]


def test_lists_and_counts_in_words():
    assert [conclusions.listed(items) for items in ([2], [2, 4], [2, 4, "all"])] == ["2", "2 and 4", "2, 4 and all"]
    assert conclusions.counted(1, "splits") == "1 split" and conclusions.counted(2, "splits") == "2 splits"
