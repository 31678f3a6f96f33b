"""Checks of the published numbers: what they find, and that they would find it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from thesis_lib import audit, published

SALADS = Path(__file__).parents[2] / "shared" / "data" / "50salads"


def test_all_46_means_recompute():
    means = audit.recomputed_means()
    assert len(means) == 46 and means["agrees"].all()
    assert means.set_index(["table", "metric"]).loc[("7", "accuracy"), "recomputed"] == pytest.approx(0.8114)


def test_a_wrong_mean_is_found(monkeypatch):
    wrong = published.NUMBERS.replace("mean | 0.854 77.8", "mean | 0.854 77.7")
    monkeypatch.setattr(published, "NUMBERS", wrong)
    means = audit.recomputed_means()
    assert means[~means["agrees"]][["table", "metric"]].values.tolist() == [["1", "edit_score"]]


def test_table_10_is_the_means():
    summary = audit.summary_table()
    assert len(summary) == 9 and summary["agrees"].all()


def test_one_row_stands_in_two_splits():
    found = audit.duplicated_rows()
    assert found.values.tolist() == [
        ["6", "1", "7", "5", False],
        ["6", "4", "7", "4", True],
        ["8", "4", "9", "4", True],
    ]


def test_edit_distance_is_bounded_by_accuracy():
    rows = audit.levenshtein_bound()
    assert len(rows) == 30 and rows["possible"].all()
    copied = (rows["table"] == "6") & (rows["split"] == "1")
    assert rows[~copied]["ratio"].between(0.97, 1).all()
    assert rows[copied]["ratio"].item() == pytest.approx(0.907, abs=0.001)
    # Exactly the rows of split 5, and the copy, fit the length of split 5's videos.
    assert ((rows["nearest_split"] == "5") == ((rows["split"] == "5") | copied)).all()
    shorter = audit.levenshtein_bound({split: 0.9 * length for split, length in audit.SECONDS.items()})
    assert not shorter[~copied]["possible"].any()


def test_nothing_is_significant_against_the_baseline():
    tests = audit.paired_tests().set_index(["table", "against", "splits"])
    expected = {"6": (0.0064, 0.25), "7": (0.0186, 1.43), "8": (0.0168, 1.11), "9": (0.0234, 1.65)}
    for table, (difference, t) in expected.items():
        test = tests.loc[(table, "3", "1-5")]
        assert test["mean_difference"] == pytest.approx(difference) and test["t"] == pytest.approx(t, abs=0.01)
        assert test["p"] > 0.05
    assert (tests["p_holm"] > 0.05).all() and (tests["p_holm"] >= tests["p"]).all()
    # One of ten, uncorrected: public against own weights after 15 epochs, by half a point.
    assert tests[tests["p"] < 0.05].index.tolist() == [("9", "7", "1-5")]


def test_holm():
    p = pd.Series([0.01, 0.04, 0.03, 0.5])
    assert audit.holm(p).tolist() == pytest.approx([0.04, 0.09, 0.09, 0.5])


def test_table_6_without_the_copy():
    means = audit.table6_without_the_copy()
    assert means.loc["accuracy"].tolist() == pytest.approx([0.7992, 0.78975, 0.7922])
    assert means.loc["frame_levenshtein", "replaced"] == pytest.approx(78.48)


def test_what_may_stand_beside_what():
    groups = audit.comparable().set_index(["metric", "methods"])["protocol"]
    together = [methods for metric, methods in groups.index if metric == "accuracy"]
    frames = next(methods for methods in together if "ASFormer, own features;" in methods and "DiffAct" in methods)
    assert "VideoCLIP" not in frames and "DiffAct+TST" not in frames


@pytest.mark.skipif(not SALADS.exists(), reason="the real labels of 50Salads are not beside this checkout")
def test_lengths_of_the_real_test_videos():
    for split, frames in audit.TEST_FRAMES.items():
        names = (SALADS / "splits" / f"test.split{split}.bundle").read_text().split()
        lengths = [len((SALADS / "groundTruth" / name).read_text().split()) for name in names]
        assert sum(lengths) == frames and len(lengths) == audit.TEST_VIDEOS
        assert audit.SECONDS[split] == pytest.approx(np.mean(lengths) / 30)
