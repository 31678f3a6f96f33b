"""Tables: numbers stay numbers, the best one is found, nothing missing looks like a result."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from thesis_lib import tables


def tidy(values, metric="accuracy", method="ASFormer", unit="0..1"):
    return pd.DataFrame(
        [dict(method=method, split=i + 1, metric=metric, value=value, unit=unit) for i, value in enumerate(values)]
    )


@pytest.fixture
def rows():
    return pd.concat(
        [
            tidy([0.8, 0.7, 0.9, 0.85, 0.75]),
            tidy([30.0, 20.0, 10.0, 40.0, 50.0], "frame_levenshtein", unit="frames"),
            tidy([0.4, 0.5, 0.45, 0.35, np.nan], method="zero-shot"),
        ],
        ignore_index=True,
    )


def test_spread_is_a_number_that_prints_its_deviation():
    values = [0.8, 0.7, 0.9]
    spread = tables.Spread(values)
    assert spread == pytest.approx(np.mean(values))
    assert f"{spread:.3f}" == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert f"{tables.Spread([0.5]):.2f}" == "0.50"  # one split has no spread
    assert f"{tables.Spread([1.0, np.nan, 3.0]):.1f}" == "2.0 ± 1.4"
    assert np.isnan(tables.Spread([]))


def test_per_split_ends_with_the_mean(rows):
    frame = tables.per_split(rows[rows["method"] == "ASFormer"], ["accuracy", "frame_levenshtein"])
    assert list(frame.columns) == ["Accuracy ↑", "Edit distance ↓ (frames)"]
    assert list(frame.index) == ["1", "2", "3", "4", "5", "mean ± std"]
    assert frame.loc["mean ± std", "Accuracy ↑"] == pytest.approx(0.8)
    html = tables.to_html(frame)
    assert "<strong>0.900</strong>" in html and "<strong>10.0</strong>" in html  # largest and smallest
    assert html.count("<strong>") == 2 and "0.800 <small>± 0.079</small>" in html


def test_distances_in_seconds_say_so():
    frame = tables.per_split(tidy([120.0, 80.0], "frame_levenshtein", unit="seconds"), ["frame_levenshtein"])
    assert list(frame.columns) == ["Edit distance ↓ (seconds)"]
    assert "<strong>80.0</strong>" in tables.to_html(frame)


def test_two_values_or_two_units_are_an_error(rows):
    with pytest.raises(ValueError, match="split 1, metric accuracy"):
        tables.per_split(rows, ["accuracy"])
    mixed = pd.concat(
        [tidy([1.0], "frame_levenshtein", unit="frames"), tidy([1.0], "frame_levenshtein", unit="seconds")]
    )
    with pytest.raises(ValueError, match="frames and seconds"):
        tables.compare(mixed, ["frame_levenshtein"])


def test_compare_pairs_splits_as_scipy_does(rows):
    frame = tables.compare(rows, ["accuracy"], baseline="ASFormer")
    both = np.array([0.4, 0.5, 0.45, 0.35]), np.array([0.8, 0.7, 0.9, 0.85])  # split 5 was not run
    assert frame.loc["zero-shot", "p (paired)"] == pytest.approx(stats.ttest_rel(*both).pvalue)
    assert frame.loc["zero-shot", "Δ accuracy"] == pytest.approx(np.mean(both[0] - both[1]))
    assert frame.loc["ASFormer", "p (paired)"] == "–"
    assert frame.loc["zero-shot", "Accuracy ↑"].count == 4
    assert "<strong>0.800 <small>± 0.079</small></strong>" in tables.to_html(frame)


def test_paired_without_spread_claims_nothing():
    same = pd.Series([0.5, 0.75])
    assert tables.paired(same, same) == (0.0, 1.0)
    difference, p = tables.paired(same + 0.25, same)  # a constant difference: no denominator, so no p
    assert difference == 0.25 and np.isnan(p)
    assert all(np.isnan(tables.paired(same, pd.Series([0.1], index=[7]))))


def test_compare_by_several_columns(rows):
    frame = tables.compare(
        rows.assign(weights="own"), ["accuracy"], by=["method", "weights"], baseline=("ASFormer", "own")
    )
    assert frame.index.names == ["method", "weights"] and frame.loc[("ASFormer", "own"), "Δ accuracy"] == "–"


def test_final_and_best_differ_where_training_overshoots():
    history = pd.DataFrame(
        [
            dict(split=s, epoch=e, accuracy=0.5 + 0.1 * s - 0.01 * (e - 3) ** 2, loss=1 / e)
            for s in (1, 2)
            for e in range(1, 6)
        ]
    )
    frame = tables.final_and_best(history, "accuracy")
    assert list(frame.loc["2"]) == pytest.approx([0.66, 5, 0.7, 3])
    mean = frame.loc["mean ± std", "Accuracy ↑, best"]
    assert mean == pytest.approx(0.65) and format(mean, ".2f") == "0.65 ± 0.07"
    assert tables.final_and_best(history, "loss").loc["1", "best epoch"] == 5


def test_table10_marks_what_did_not_run_and_hides_differences(rows):
    published = pd.DataFrame(
        [
            dict(method="ASFormer", source="paper", metric="accuracy", value=0.856),
            dict(method="ASFormer", source="thesis", metric="accuracy", value=0.8),
            dict(method="fine-tuned", source="thesis", metric="accuracy", value=0.82),
        ]
    )
    frame = tables.table10(published, rows)
    assert list(frame.index) == ["ASFormer", "fine-tuned", "zero-shot"]
    assert frame.loc["ASFormer", "Δ to thesis"] == pytest.approx(0.0)
    assert 'class="missing" style="text-align: right">not run<' in tables.to_html(frame)
    assert list(frame.loc["zero-shot", ["thesis", "paper"]]) == ["–", "–"]
    assert "Δ to thesis" not in tables.table10(published, rows, differences=False)


def test_html_escapes_aligns_and_flattens():
    frame = pd.DataFrame({"class": ["a<b", "c"], ("n", "frames"): [3, 12], "share": [0.25, 0.75]})
    html = tables.to_html(frame, {"share": ".0%"})
    assert "a&lt;b" in html and "25%" in html and "n · frames" in html
    assert html.count('style="text-align: right"') == 6 and "<strong>" not in html  # no arrow, no best
    assert ">3<" in html and "3.000" not in html


def test_text_and_html_say_the_same(rows):
    frame = tables.compare(rows, ["accuracy"])
    lines = tables.to_text(frame).splitlines()
    assert len({len(line.rstrip()) for line in lines[1:]}) <= 2 and len(lines) == 3
    assert "0.800 ± 0.079*" in lines[1] and "0.425 ± 0.065" in lines[2]


def test_values_equal_after_rounding_share_the_mark():
    html = tables.to_html(pd.DataFrame({"Accuracy ↑": [0.8001, 0.8002, 0.5]}))
    assert html.count("<strong>0.800</strong>") == 2


def test_no_probability_of_zero():
    frame = pd.DataFrame({"p (paired)": [0.0004, 0.04, np.nan]})
    assert [line.split("  ")[-1].strip() for line in tables.to_text(frame).splitlines()[1:]] == [
        "< 0.001",
        "0.040",
        "not run",
    ]
