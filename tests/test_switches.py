"""Tables about switches: the epoch of each choice, the settings side by side, F1 class by class."""

import numpy as np
import pandas as pd
import pytest

from thesis_lib import metrics, switches
from thesis_lib.training.predictions import save_predictions

HISTORY = pd.DataFrame({
    "split": [1, 1, 1, 2, 2, 2],
    "epoch": [1, 2, 3] * 2,
    "test_loss": [0.9, 0.5, 0.7, 0.4, 0.6, 0.3],
    "accuracy": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
})  # fmt: skip


def test_epochs_of_histories():
    found = switches.of_histories(HISTORY, ["accuracy"]).set_index(["choice", "split"])[["epoch", "value"]]
    expected = {("last", 1): (3, 0.3), ("test_loss", 1): (2, 0.2), ("last", 2): (3, 0.6), ("test_loss", 2): (3, 0.6)}
    assert {key: tuple(row) for key, row in zip(found.index, found.to_numpy(), strict=True)} == expected


def test_epochs_of_fine_tunings_are_scored_from_their_predictions(tmp_path):
    HISTORY[:3].to_csv(tmp_path / "history.csv", index=False)
    save_predictions(tmp_path, {"a": [[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]}, {"a": [0, 0, 1, 1]})
    found = switches.of_fine_tunings({4: tmp_path}, until=3)
    accuracy = found[found["metric"] == "accuracy"].set_index("choice")
    assert accuracy["value"].to_dict() == {"last": 1.0, "test_loss": 0.75}
    assert accuracy["epoch"].to_dict() == {"last": 3, "test_loss": 2} and set(found["split"]) == {4}
    first = switches.of_fine_tunings({4: tmp_path}, until=1)
    assert set(first["epoch"]) == {1} and first[first["metric"] == "segments"]["value"].tolist() == [1, 1]


def test_settings_side_by_side():
    truth = [np.array([0, 0, 1, 1])]
    frame = switches.table({"as above": ([np.array([0, 1, 1, 1])], truth), "other": (truth, truth)})
    assert frame["Accuracy ↑"].tolist() == [0.75, 1] and frame["true segments"].tolist() == [2, 2]
    assert switches.told(frame) == "other +25.0"
    assert switches.told(frame[:1]) == "no other setting was run"


def test_f1_of_classes_is_that_of_the_confusion_matrix():
    rng = np.random.default_rng(0)
    truth = [rng.integers(0, 3, 50) for _ in range(2)]
    good = [np.where(rng.uniform(size=50) < 0.8, y, 0) for y in truth]
    frame = switches.class_f1(
        {"good": (good, truth), "constant": ([y * 0 for y in truth], truth)}, ["a_b", "c", "d", "e"]
    )
    assert set(frame.index) == {"a b", "c", "d"}, "a class that never occurs says nothing"
    expected = metrics.class_f1(metrics.confusion(good, truth, 4))
    assert frame.loc["a b", "good"] == pytest.approx(expected[0]) and frame.loc["c", "constant"] == 0
    assert frame.mean(axis=1).is_monotonic_decreasing
