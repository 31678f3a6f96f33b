"""Raw annotations beside label files: the 50 real ones, and made ones whose differences are known."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from thesis_lib.data import raw_agreement, salads

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "50salads"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/50salads")
FRAME = 33_337
RUNS = [("action_start", 200), ("cut_tomato", 300), ("add_salt", 100), ("cut_cheese", 400), ("action_end", 150)]


def write(root, ticks, runs=RUNS, stamps=False, short=0):
    """A label file of runs and the annotation of its actions, the frames at ticks; labels `short` frames shorter."""
    labels = [name for name, length in runs for _ in range(length)]
    starts = np.cumsum([0, *(length for _, length in runs)])
    phases = [
        f"{ticks[a]} {ticks[b - 1]} {name}_core" for (name, _), (a, b) in zip(runs, pairwise(starts), strict=True)
    ]
    salads.write_lines(root / "groundTruth/rgb-01-1.txt", labels[: len(labels) - short])
    salads.write_lines(root / "ann-ts/01-1-activityAnnotation.txt", phases[1:-1])
    if stamps:
        salads.write_lines(root / "ann-ts/timestamps-01-1.txt", ticks)


def test_by_time_stamps_the_end_that_was_not_cut_agrees(tmp_path):
    write(tmp_path, 5_000_000 + FRAME * np.arange(1150), stamps=True, short=4)
    (row,) = raw_agreement.agreement(tmp_path).itertuples()
    assert (row.video, row.clock, row.labels, row.surplus, row.same_order) == ("rgb-01-1", "time stamps", 1146, 4, True)
    assert row.agree == 1 and row.agree_front == pytest.approx(1 - 4 * 4 / 1146)  # four frames wrong at four borders


def test_a_clock_of_one_rate_needs_no_time_stamps(tmp_path):
    write(tmp_path, 71_234_567 + FRAME * np.arange(1150))
    (row,) = raw_agreement.agreement(tmp_path).itertuples()
    assert row.clock == "straight" and row.agree == 1 and row.lost == 0 and row.where == ""


@pytest.mark.parametrize("lost, at", [(7, 250), (30, 550), (90, 800)])
def test_frames_that_a_recording_lost_are_counted_and_placed(tmp_path, lost, at):
    frames = np.arange(1150)
    write(tmp_path, 9_000_000 + FRAME * (frames + lost * (frames >= at)))
    (row,) = raw_agreement.agreement(tmp_path).itertuples()
    before, after = max(b for b in (200, 500, 600) if b <= at), min(b for b in (500, 600, 1000) if b > at)
    assert row.lost == lost and row.where == f"{before} to {after}: {lost}" and row.same_order
    late = sum(border > at for border in (200, 500, 600, 1000))
    assert row.agree == pytest.approx(1 - lost * min(late, 4 - late) / 1150, abs=3 / 1150)
    assert row.agree_without_losses > 1 - 3 / 1150


def test_another_order_is_said_to_be_one(tmp_path):
    write(tmp_path, FRAME * np.arange(1150))
    swapped = [RUNS[0], RUNS[2], RUNS[1], *RUNS[3:]]
    salads.write_lines(tmp_path / "groundTruth/rgb-01-1.txt", [name for name, n in swapped for _ in range(n)])
    (row,) = raw_agreement.agreement(tmp_path).itertuples()
    assert not row.same_order and row.agree == pytest.approx(1 - 200 / 1150)


def test_nothing_to_compare(tmp_path):
    assert raw_agreement.agreement(tmp_path).empty
    with pytest.raises(ValueError, match="01-1: no phase of an action"):
        raw_agreement.compare([], ["cut_tomato"], None, where="01-1")
    with pytest.raises(ValueError, match="no label"):
        raw_agreement.compare([("cut_tomato", 0, 5)], [], None)


@real
def test_the_real_annotations_give_the_real_labels(monkeypatch, capsys):
    """All 50. What differs is explained: frames that the recording lost, and single frames at borders."""
    table = raw_agreement.agreement(SHARED).set_index("video")
    assert len(table) == 50 and table["same_order"].all() and table["labels"].sum() == 577_595
    assert np.average(table["agree"], weights=table["labels"]) > 0.997
    whole = table[table["lost"] < raw_agreement.TELLING]
    assert len(whole) == 28 and whole["agree"].min() > 0.999 and (table["lost"] >= 0).all()
    assert table["agree_without_losses"].min() > 0.998
    frames = ((1 - table["agree_without_losses"]) * table["labels"]).round()
    assert frames.sum() < 300 and (frames == 2).sum() == 32  # the first border and the last one stand a frame late
    assert table.loc["rgb-02-2", ["lost", "where"]].tolist() == [87, "2433 to 2829: 87"]
    monkeypatch.setattr(raw_agreement, "agreement", lambda root: table.reset_index())
    monkeypatch.setattr("sys.argv", ["raw_agreement", str(SHARED)])
    raw_agreement.main()
    assert "50 videos, 99.70 % of all frames agree" in capsys.readouterr().out
