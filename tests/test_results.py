"""Results: numbered figures and tables that survive the notebook, rows that are checked, provenance."""

import json

import matplotlib
import pandas as pd
import pytest

from thesis_lib import params, paths, results

matplotlib.use("agg")
ROW = {"method": "ASFormer", "weights": "scratch", "split": 1, "epoch": 15, "metric": "accuracy", "value": 0.5}
ROW |= {"unit": "0..1", "protocol": "final epoch"}


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """What was displayed: a list of (data, metadata)."""
    monkeypatch.setattr(paths, "REPORTS", tmp_path)
    displayed = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: displayed.append((data, metadata)))
    return displayed


def curve():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    axes.plot([0, 1], [0, 1], clip_on=True)
    axes.set_title("Точность $\\alpha$")
    return figure


def test_figures_are_numbered_captioned_and_the_same_bytes_each_time(shown, tmp_path):
    report = results.Report("04_baseline", "mini")
    for name in ("curve", "timelines", "curve"):  # a cell that is run twice keeps its number
        report.figure(curve(), name, "It rises.")
    assert [meta["thesis"]["number"] for _, meta in shown] == ["4.1", "4.1", "4.2", "4.2", "4.1", "4.1"]
    assert shown[0][0]["image/svg+xml"] == shown[4][0]["image/svg+xml"]
    assert shown[0][0]["image/svg+xml"] != shown[2][0]["image/svg+xml"], "ids differ, one page can hold both"
    assert shown[0][1]["thesis"] == {"kind": "figure", "number": "4.1", "name": "curve", "caption": "It rises."}
    assert shown[1][0]["text/plain"] == "Figure 4.1. It rises." and shown[1][1]["thesis"]["kind"] == "caption"
    assert (tmp_path / "mini/figures/04_curve.svg").read_text() == shown[0][0]["image/svg+xml"]
    assert "<text" not in shown[0][0]["image/svg+xml"], "letters are paths: no font needed"
    assert not matplotlib.pyplot.get_fignums(), "closed, or it is displayed twice"


def test_tables_round_what_they_show_and_keep_what_they_save(shown, tmp_path):
    frame = pd.DataFrame({"split": [1, 2], "accuracy": [2 / 3, None], "edit": [71.26, 70.0]})
    results.Report("04_baseline", "mini").table(frame, "per_split", "Splits agree.", formats={"edit": ".1f"})
    (data, meta), _ = shown
    assert data["text/plain"].split() == ["split", "accuracy", "edit", "1", "0.667", "71.3", "2", "not", "run", "70.0"]
    assert ">0.667</td>" in data["text/html"] and meta["thesis"]["number"] == "4.1"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "mini/results/04_per_split.csv"), frame)


def test_tables_show_a_named_index_and_columns_of_two_levels(shown):
    frame = pd.DataFrame({("own", "acc"): [0.5], ("own", "edit"): [None]}, index=pd.Index(["mean"], name="split"))
    results.Report("A1_videomae", "mini").table(frame, "t", "c")
    assert "mean" in shown[0][0]["text/plain"] and "own" in shown[0][0]["text/plain"]
    assert shown[0][1]["thesis"]["number"] == "A1.1"


def test_rows_come_back_as_they_were_saved(shown, tmp_path):
    for notebook in ("04_baseline", "06_zero_shot"):
        report = results.Report(notebook, "mini")
        report.add(**ROW)
        report.add(**ROW | {"split": None, "value": None}, seed=3)
        report.save()
    frame = results.load("mini")
    assert list(frame.columns) == ["notebook", *results.COLUMNS, "seed"]
    assert list(frame.notebook) == ["04_baseline"] * 2 + ["06_zero_shot"] * 2
    assert frame.split.tolist()[0] == 1 and frame.split.isna().tolist() == [False, True] * 2
    assert frame.value.tolist()[0] == 0.5 and frame.value.isna().tolist() == [False, True] * 2
    assert pd.read_csv(tmp_path / "mini/results/04_baseline.csv").value.tolist()[0] == 0.5
    assert results.load("nothing_ran").empty


@pytest.mark.parametrize(
    "change, message",
    [
        ({"metric": "acuracy"}, "04_baseline, row 1: unknown metric 'acuracy': expected one of accuracy"),
        ({"unit": "%"}, "04_baseline, row 1: accuracy in '%': expected 0..1"),
        ({"value": 50.0}, "accuracy is 50.0: expected a finite number in 0..1"),
        ({"value": float("nan")}, "accuracy is nan: expected a finite number"),
    ],
)
def test_a_wrong_row_says_what_is_wrong(shown, change, message):
    with pytest.raises(ValueError, match=message):
        results.Report("04_baseline", "mini").add(**ROW | change)


def test_the_same_row_twice_is_one_row_and_two_values_are_a_mistake(shown):
    report = results.Report("04_baseline", "mini")
    report.add(**ROW)
    report.add(**ROW)
    assert len(report.rows) == 1
    with pytest.raises(ValueError, match="was 0.5 before: say what differs"):
        report.add(**ROW | {"value": 0.6})


def test_provenance_says_what_made_the_numbers(shown, tmp_path):
    record = params.SimpleNamespace(profile="mini", seed=7, lr=1e-4)
    results.Report("04_baseline", record).save()
    (document,) = results.documents("mini")
    made = document["provenance"]
    assert made["parameters"] == {"profile": "mini", "seed": 7, "lr": 1e-4} and made["seed"] == 7
    assert made["versions"]["torch"].startswith("2.13") and made["hardware"]["cpus"] >= 1
    assert isinstance(made["dirty"], bool) and made["wall_time_s"] >= 0 and made["peak_memory_mb"] > 0

    file = tmp_path / "mini/results/04_baseline.json"
    file.write_text(json.dumps(document | {"schema": 0}))
    with pytest.raises(ValueError, match="schema 0: expected 1; run its notebook again"):
        results.load("mini")
