"""The table of systems and its words: what stands in each cell, and that no sentence says more than its rows."""

import pandas as pd
import pytest

from thesis_lib import appendix, protocol, systems
from thesis_lib.tables import to_text


class Rows(list):
    def add(self, **row):
        self.append(row)


def scores(rows: Rows, name: str, values, head=None, grid=protocol.FRAMES):
    for split, value in enumerate(values, 1):
        rows.add(method=name, weights="own", split=split, epoch=15, metric="accuracy", value=value, unit="0..1",
                 protocol=grid, **({"head": head} if head else {}))  # fmt: skip


@pytest.fixture
def rows():
    found = Rows()
    scores(found, "VideoCLIP 15 epochs, public weights", [0.7, 0.72, 0.74], head="classifier")
    scores(found, "VideoCLIP 15 epochs, public weights", [0.1, 0.1, 0.1], head="text")
    scores(found, "VideoCLIP 15 epochs, own weights", [0.2, 0.2, 0.2], head="classifier")
    scores(found, "VideoCLIP frozen + ASFormer", [0.6, 0.6, 0.6])
    scores(found, "ALPRO 15 epochs", [0.8, 0.81, 0.85])
    scores(found, "ALPRO 15 epochs", [0.0, 0.0, 0.0], grid=protocol.SECONDS)
    scores(found, "VideoMAE 15 epochs", [0.71, 0.70, 0.75])
    systems.keep_costs(found, "ALPRO", parameters=1000, clips=640, seconds=90.0)
    systems.keep_order(found, "ALPRO", 0.8, 0.75, split=1)
    return pd.DataFrame(list(found))


def test_each_cell_has_its_own_rows(rows):
    table = systems.table(rows)
    assert list(table.index) == ["VideoCLIP", "VideoMAE", "ALPRO", "SViTT", "SViTT-Ego"]
    assert float(table.loc["VideoCLIP", systems.MANY]) == pytest.approx(0.72), "classifier head, public weights, frames"
    assert float(table.loc["VideoCLIP", systems.FROZEN]) == pytest.approx(0.6)
    assert float(table.loc["ALPRO", systems.MANY]) == pytest.approx(0.82)
    assert table.loc["ALPRO", ["parameters", "clips", "minutes"]].tolist() == [1000, 640, 1.5]
    assert table.loc["ALPRO", "order"] == pytest.approx(0.05)
    assert table.loc["VideoMAE", systems.ZERO] == systems.NO_TEXT, "never a number, never not run"
    shown = {line.split()[0]: line for line in to_text(table).splitlines()}
    assert "not run" in shown["SViTT"] and systems.NO_TEXT in shown["VideoMAE"]


def test_every_accuracy_tells_its_deviation_over_splits(rows):
    """Where all systems were run too: pandas takes a column of nothing but floats for plain numbers."""
    more = Rows(rows.to_dict("records"))
    for title in ("SViTT", "SViTT-Ego"):
        scores(more, f"{title} 15 epochs", [0.5, 0.6, 0.7])
    table = systems.table(pd.DataFrame(list(more)))
    assert [f"{value:.3f}" for value in table[systems.MANY]] == [
        "0.720 ± 0.020", "0.720 ± 0.026", "0.820 ± 0.026", "0.600 ± 0.100", "0.600 ± 0.100",
    ]  # fmt: skip
    assert "0.820 ± 0.026" in to_text(table) and "0.820 ± 0.026" in to_text(table.loc[["ALPRO"]])
    assert f"{systems.MANY} 0.820 ± 0.026" in appendix.in_words(table.loc[["ALPRO"]])


def test_an_empty_run_is_a_table_of_what_was_not_run():
    empty = pd.DataFrame(columns=["method", "weights", "split", "epoch", "metric", "value", "unit", "protocol"])
    table = systems.table(empty)
    assert table[systems.MANY].isna().all() and len(table) == 5
    assert systems.sentences(empty, [systems.MANY]) == ["15 epochs: not run for two systems."]


def test_words_follow_the_tests(rows):
    (said,) = systems.sentences(rows, [systems.MANY])
    assert said.startswith("15 epochs: the highest mean has ALPRO (0.820).")
    assert "better than VideoCLIP: ALPRO +10.0" in said and "not to be told apart from it: VideoMAE" in said
    found = systems.tests(rows, systems.MANY)
    assert found.loc["SViTT", "n"] == 0 and (found["p_holm"].dropna() >= found["p"].dropna()).all()
    (frozen,) = systems.sentences(rows, [systems.FROZEN])
    assert frozen == "Frozen + ASFormer: not run for two systems."


@pytest.mark.parametrize(
    ("epochs", "stated"),
    [([15, 8, 8], [("8 epochs", 8), ("15 epochs", 15)]), ([3], [("15 epochs", 3)])],
)
def test_numbers_of_epochs_have_a_column_each(epochs, stated):
    assert systems.stated(epochs) == stated


@pytest.mark.parametrize("epochs", [[], [4, 8, 15]])
def test_more_numbers_of_epochs_than_columns_are_refused(epochs):
    with pytest.raises(ValueError, match="one or two numbers of epochs"):
        systems.stated(epochs)
