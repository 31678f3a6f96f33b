"""Which epoch counts, and which videos are held out for it."""

import numpy as np
import pandas as pd
import pytest

from thesis_lib.training import epochs
from thesis_lib.training.predictions import save_predictions

HISTORY = pd.DataFrame({
    "epoch": [1, 2, 3, 4, 5, 6],
    "test_loss": [np.nan, 0.9, np.nan, 0.5, np.nan, 0.7],
    "held_out_loss": [np.nan, 0.3, np.nan, 0.6, np.nan, 0.3],
})  # fmt: skip


def test_each_choice_on_one_history():
    found = {choice: epochs.chosen(HISTORY, choice) for choice in epochs.COLUMNS}
    assert found == {"last": 6, "held_out": 2, "test_loss": 4}, "the earliest of two equal losses"
    assert [epochs.chosen(HISTORY, choice, until=3) for choice in epochs.COLUMNS] == [2, 2, 2]


def test_what_cannot_be_chosen_is_said():
    with pytest.raises(ValueError, match="epoch_choice='best': choose one of last, held_out, test_loss"):
        epochs.chosen(HISTORY, "best")
    with pytest.raises(ValueError, match="no held_out_loss: train with epoch_choice=held_out"):
        epochs.chosen(HISTORY.drop(columns="held_out_loss"), "held_out")
    with pytest.raises(ValueError, match="no evaluated epoch"):
        epochs.chosen(HISTORY, "last", until=1)


def test_predictions_of_the_chosen_epoch(tmp_path):
    HISTORY.to_csv(tmp_path / "history.csv", index=False)
    save_predictions(tmp_path, {"a": [[2, 2], [4, 4], [6, 6]]}, {"a": [0, 1]})  # an evaluated epoch says its number
    for choice, until in (("last", None), ("test_loss", None), ("held_out", None), ("last", 5)):
        epoch, names, predictions, targets = epochs.load_chosen(tmp_path, choice, until)
        assert predictions[0].tolist() == [epoch, epoch] and names == ["a"] and targets[0].tolist() == [0, 1]


def test_held_out_are_all_videos_of_some_users():
    names = [f"rgb-{user:02d}-{salad}" for user in range(1, 21) for salad in (1, 2)]
    held = epochs.hold_out(names, seed=3)
    assert len(held) == 8 and held == epochs.hold_out(names, seed=3) != epochs.hold_out(names, seed=4)
    users = {names[place].split("-")[1] for place in held}
    assert {place for place, name in enumerate(names) if name.split("-")[1] in users} == set(held)


def test_names_without_users_are_held_out_one_by_one():
    assert len(epochs.hold_out(["breakfast", "lunch", "dinner"])) == 1
    with pytest.raises(ValueError, match="2 training videos of 1 user"):
        epochs.hold_out(["rgb-01-1", "rgb-01-2"])
