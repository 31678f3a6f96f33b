"""What a switch of the protocol changes: a run read at another epoch, or one trained with a parameter changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from thesis_lib import metrics, protocol, tables
from thesis_lib.training import epochs

MEASURES = ("accuracy", "edit_score", "f1@10", "f1@50", "segments", "true_segments")
READ_BY = ("last", "test_loss")  # what any run can be read by; "held_out" needs a run of its own
FORMATS = {"segments": ".1f", "true segments": ".1f", "epoch": ".0f"}


def of_histories(history: pd.DataFrame, measures: Sequence[str], choices: Sequence[str] = READ_BY) -> pd.DataFrame:
    """The epoch that each choice takes, from the histories of ASFormer: columns choice, split, epoch, metric, value."""
    rows = []
    for split, one in history.groupby("split"):
        for choice in choices:
            epoch = epochs.chosen(one, choice)
            values = one[one["epoch"] == epoch].iloc[0]
            rows += [(choice, split, epoch, metric, values[metric]) for metric in measures]
    return pd.DataFrame(rows, columns=["choice", "split", "epoch", "metric", "value"])


def of_fine_tunings(
    runs: Mapping[int, Path], until: int, measures: Sequence[str] = MEASURES, choices: Sequence[str] = READ_BY
) -> pd.DataFrame:
    """The same of the first `until` epochs of fine-tunings {split: folder}, scored a second at a time."""
    rows = []
    for split, folder in runs.items():
        for choice in choices:
            epoch, _, predictions, targets = epochs.load_chosen(folder, choice, until)
            scores = protocol.scores_of(predictions, targets)
            rows += [(choice, split, epoch, metric, scores[metric]) for metric in measures]
    return pd.DataFrame(rows, columns=["choice", "split", "epoch", "metric", "value"])


def table(results: Mapping[str, tuple], measures: Sequence[str] = MEASURES) -> pd.DataFrame:
    """One row a setting of {setting: (predictions, targets)}, headed as the report's tables are."""
    rows = {}
    for setting, (predictions, targets) in results.items():
        scores = protocol.scores_of(predictions, targets)
        rows[setting] = {tables.header(metric): scores[metric] for metric in measures}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("setting")


def told(frame: pd.DataFrame, what: str = "Accuracy ↑", unit: float = 100) -> str:
    """What each row of `table` after the first has more or less than it, in points; a sentence where there is none."""
    first, *others = frame[what]
    if not others:
        return "no other setting was run"
    return ", ".join(
        f"{name} {unit * (value - first):+.1f}" for name, value in zip(frame.index[1:], others, strict=True)
    )


def class_f1(results: Mapping[str, tuple], names: Sequence[str]) -> pd.DataFrame:
    """F1 0..1 of the frames of each class, a column a method of {method: (predictions, targets)}, best of all first.

    Classes that no target has are left out.
    """
    counts = {method: metrics.confusion(*pair, len(names)) for method, pair in results.items()}
    frame = pd.DataFrame({method: metrics.class_f1(matrix) for method, matrix in counts.items()}, index=list(names))
    present = next(iter(counts.values())).sum(1) > 0
    frame = frame[present].rename(index=lambda name: name.replace("_", " ")).rename_axis("class")
    return frame.loc[frame.mean(axis=1).sort_values(ascending=False, kind="stable").index]
