"""Calibration by stage: the table says what the counts it came from say."""

import numpy as np
import pytest

from thesis_lib import calibration, metrics
from thesis_lib.training import asformer


@pytest.fixture
def runs(tmp_path):
    """{split: folder} and {(split, stage): (confidences, correct)} of 2 splits and 3 stages."""
    rng, folders, drawn = np.random.default_rng(0), {}, {}
    for split in (1, 2):
        folders[split] = tmp_path / str(split)
        folders[split].mkdir()
        for stage in range(3):
            sure = rng.uniform(0.05, 1, 300)
            drawn[split, stage] = sure, rng.uniform(size=300) < sure ** (stage + 1)
        counts = np.stack([metrics.reliability(*drawn[split, stage], asformer.BINS) for stage in range(3)])
        asformer._save_reliability(folders[split], counts)
    return folders, drawn


def test_each_stage_has_the_error_of_its_frames(runs):
    folders, drawn = runs
    found = calibration.by_stage(calibration.reliability(folders)).set_index(["split", "stage"])
    for (split, stage), (sure, right) in drawn.items():
        row = found.loc[split, ("encoder", "decoder 1", "decoder 2")[stage]]
        expected = metrics.calibration_error(metrics.reliability(sure, right, asformer.BINS))
        assert row["calibration_error"] == pytest.approx(expected)
        assert (row["confidence"], row["accuracy"]) == pytest.approx((sure.mean(), right.mean()))


def test_curves_have_a_point_a_bin_and_the_line_of_equality(runs):
    found = calibration.reliability(runs[0])
    drawn = calibration.curves(found)
    line = drawn[drawn["stage"] == "as sure as right"]
    assert np.array_equal(line["accuracy"], line["confidence"] / 100) and line["confidence"].is_monotonic_increasing
    assert len(drawn) == len(found) + len(line) and drawn["confidence"].between(0, 100).all()


def test_sureness():
    assert calibration.sureness(0.01, 0.9, 0.89) == "about as sure as it is right"
    assert calibration.sureness(0.2, 0.9, 0.7) == "surer than it is right"
    assert calibration.sureness(0.2, 0.5, 0.7) == "less sure than it is right"
