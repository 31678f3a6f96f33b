"""The published numbers as data: complete, in one unit each, and as their sources print them."""

import pandas as pd
import pytest

from thesis_lib import published

RANGES = {"0..1": (0, 1), "0..100": (0, 100), "epoch": (1, 120), "nats": (0, 10), "seconds": (0, 400), "rank": (1, 100)}


@pytest.fixture(scope="module")
def numbers():
    return published.tables()


def value(numbers, table, row, metric, **more):
    chosen = numbers[(numbers["table"] == table) & (numbers["row"] == row) & (numbers["metric"] == metric)]
    for column, wanted in more.items():
        chosen = chosen[chosen[column] == wanted]
    return chosen["value"].item()


def test_every_row_is_whole(numbers):
    assert list(numbers) == [
        *("table", "row", "split", "method", "metric", "value", "unit", "direction", "protocol", "source", "printed")
    ]
    assert not numbers.isna().any().any()
    assert numbers["source"].str.len().min() > 5
    assert not numbers.duplicated(["table", "row", "split", "method", "metric", "protocol", "source"]).any()
    assert set(numbers["direction"]) == {"higher", "lower", ""}


def test_units(numbers):
    for unit, group in numbers.groupby("unit"):
        low, high = RANGES[unit]
        assert group["value"].between(low, high).all(), unit
    assert numbers.groupby("metric")["unit"].nunique().eq(1).all()
    printed = numbers["printed"].astype(float)
    percent = ~(numbers["value"] - printed).abs().lt(1e-9)
    assert (numbers["value"][percent] * 100 - printed[percent]).abs().lt(1e-9).all()
    assert set(numbers["unit"][percent]) == {"0..1"}


def test_thesis_tables_are_complete(numbers):
    sizes = numbers[numbers["table"].str.isdigit()].groupby("table").size().to_dict()
    asformer, zero_shot, tuned = 5 * 7 + 6, 5 * 5 + 5, 5 * 7 + 6
    expected = {"1": asformer, "2": 9, "3": asformer, "4": zero_shot, "5": zero_shot, "10": 9}
    assert sizes == expected | dict.fromkeys("6789", tuned)
    splits = numbers[numbers["table"].isin(list("1345678")) & numbers["row"].str.startswith("split")]
    assert (splits.groupby(["table", "metric"])["split"].agg(sorted).map("".join) == "12345").all()


def test_numbers_as_printed(numbers):
    assert value(numbers, "1", "mean", "edit_score") == 77.8
    assert value(numbers, "2", "back", "best_accuracy") == 0.716
    assert value(numbers, "2", "front", "accuracy", split="1") == 0.658
    assert value(numbers, "3", "split 2", "best_epoch") == 90
    assert value(numbers, "6", "split 1", "frame_levenshtein", unit="seconds", direction="lower") == 58.6
    assert value(numbers, "9", "mean", "f1@50") == 0.464
    assert value(numbers, "10", "VideoCLIP zero-shot, public weights", "accuracy") == 0.457
    assert value(numbers, "paper", "ASFormer, paper", "accuracy") == 0.856
    assert value(numbers, "released weights", "ASFormer, released weights", "edit_score") == 75.73
    assert value(numbers, "field", "BaFormer", "f1@50") == pytest.approx(0.839)
    assert value(numbers, "field", "MS-TCN", "f1@10") == pytest.approx(0.763)


def test_log_rounds_to_table_3(numbers):
    log = [0.758221, 0.779617, 0.831653, 0.801570, 0.792036]  # I3D/logs_notebook.ipynb, training log at 15 fps
    frames = [0.758307, 0.779665, 0.831514, 0.801622, 0.791981]  # the same weights, eval.py at 30 fps
    table = [value(numbers, "3", f"split {i}", "accuracy") for i in range(1, 6)]
    assert [round(a, 3) for a in log] == [round(a, 3) for a in frames] == table


def test_means_for_the_summary(numbers):
    means = published.means()
    accuracy = means[means["metric"] == "accuracy"]
    order = numbers[numbers["table"] == "10"]["method"]
    assert set(accuracy["method"]) == set(order) and accuracy["method"].is_unique
    assert set(means["source"]) == {"thesis", "paper"}
    pd.testing.assert_series_equal(
        accuracy.set_index("method")["value"].sort_index(),
        numbers[numbers["table"] == "10"].set_index("method")["value"].sort_index(),
    )


def test_protocols_differ_where_the_grid_differs(numbers):
    protocols = numbers[numbers["table"].str.isdigit()].groupby("table")["protocol"].unique()
    assert protocols["3"][0] == protocols["1"][0] != protocols["7"][0] == protocols["9"][0]
    assert len(protocols["10"]) == 2  # the one table that sets both beside each other
