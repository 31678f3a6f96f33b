"""The two grids that predictions are scored on, and how one is brought to the other.

SECONDS is how the thesis scored VideoCLIP: one label a second. FRAMES is the common protocol: every labelled frame of
the test videos, the same for all methods, so that ASFormer and VideoCLIP stand on one ground. Nothing is chosen on test
data unless a parameter says so (`training.epochs`). Predictions are scored as they are; a filter over them makes a
protocol of its own (`smoothed`).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thesis_lib import metrics
from thesis_lib.data import salads

SECONDS = "one label a second"
FRAMES = "common: every frame"
UNITS = {
    "accuracy": "0..1",
    "edit_score": "0..100",
    "f1@10": "0..1",
    "f1@25": "0..1",
    "f1@50": "0..1",
    "segments": "a video",  # predicted; with the true ones: over-segmentation
    "true_segments": "a video",
}


def to_frames(
    names: Sequence[str], predictions: Sequence[np.ndarray], root: Path, fps: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Predictions a second -> (predictions, targets) for every labelled frame; each second's label fills its frames."""
    mapping = salads.read_mapping(Path(root) / "mapping.txt")
    targets = [
        salads.encode(salads.read_labels(Path(root) / f"groundTruth/{name}.txt"), mapping, name) for name in names
    ]
    frames = [metrics.to_frames(p, len(t), fps) for p, t in zip(predictions, targets, strict=True)]
    return frames, targets


def to_seconds(
    predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray], fps: float, rule: str = "middle"
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Predictions and targets a frame -> a second: predictions in the middle of each, targets by the rule of
    `metrics.to_seconds`."""
    return [metrics.to_seconds(p, fps) for p in predictions], [metrics.to_seconds(y, fps, rule) for y in targets]


def smoothed(predictions: Sequence[np.ndarray], seconds: float, rate: float) -> list[np.ndarray]:
    """A majority filter of so many seconds over predictions of `rate` labels a second (`metrics.majority`)."""
    return [metrics.majority(labels, max(1, round(seconds * rate))) for labels in predictions]


def with_filter(protocol: str, seconds: float) -> str:
    """The name of the protocol whose predictions were smoothed."""
    return f"{protocol}, majority of {seconds:g} s" if seconds else protocol


def scores_of(predictions: Sequence, targets: Sequence) -> dict:
    """`metrics.evaluate` and the number of segments a video: segments, true_segments."""
    counts = dict(zip(("segments", "true_segments"), metrics.segment_counts(predictions, targets), strict=True))
    return metrics.evaluate(predictions, targets) | counts


def add_scores(report, predictions, targets, *, protocol: str, **row) -> dict:
    """Score predictions against targets and add a row a metric to the report; returns the scores.

    row: method, weights, split, epoch, and more columns (see `results.Report.add`).
    """
    scores = scores_of(predictions, targets)
    length_unit = "seconds" if protocol.startswith(SECONDS) else "frames"
    for metric, unit in (UNITS | {"frame_levenshtein": length_unit}).items():
        report.add(metric=metric, value=scores[metric], unit=unit, protocol=protocol, **row)
    return scores


def add_both_grids(report, names, predictions, targets, *, root: Path, fps: float, **row) -> dict:
    """`add_scores` of predictions a second on their own grid and on the common one; returns the scores a second."""
    add_scores(report, *to_frames(names, predictions, root, fps), protocol=FRAMES, **row)
    return add_scores(report, predictions, targets, protocol=SECONDS, **row)
