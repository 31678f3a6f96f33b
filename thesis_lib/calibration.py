"""How sure ASFormer's stages are, and how right: from the reliability.csv that its training leaves."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from thesis_lib.closeups import stage_names
from thesis_lib.training.asformer import BINS


def reliability(runs: Mapping[int, Path]) -> pd.DataFrame:
    """A row a split, stage and bin of confidence that has frames: split, stage, bin, frames, confidence, accuracy."""
    frames = [pd.read_csv(Path(run) / "reliability.csv").assign(split=split) for split, run in runs.items()]
    found = pd.concat(frames, ignore_index=True)
    names = stage_names(int(found["stage"].max()))
    return found.assign(stage=[names[number - 1] for number in found["stage"]])


def by_stage(found: pd.DataFrame) -> pd.DataFrame:
    """A row a split and stage of `reliability`: accuracy, confidence, calibration_error (as in `metrics`), all 0..1."""
    weights = found["frames"] / found.groupby(["split", "stage"])["frames"].transform("sum")
    gap = (found["accuracy"] - found["confidence"]).abs()
    parts = found[["accuracy", "confidence"]].assign(calibration_error=gap).mul(weights, axis=0)
    return parts.groupby([found["split"], found["stage"]], sort=False).sum().reset_index()


def curves(found: pd.DataFrame) -> pd.DataFrame:
    """Points to draw: stage, split, confidence (the middle of a bin, %), accuracy, and the stage "as sure as right"."""
    middle = (100 * (found["bin"] + 0.5) / BINS).round().astype(int)
    drawn = found[["split", "stage", "accuracy"]].assign(confidence=middle)
    line = drawn.assign(stage="as sure as right", accuracy=drawn["confidence"] / 100)
    return pd.concat([drawn, line.drop_duplicates("confidence").sort_values("confidence")], ignore_index=True)


def sureness(error: float, confidence: float, accuracy: float) -> str:
    """A stage in words."""
    if error < 0.05:
        return "about as sure as it is right"
    return "surer than it is right" if confidence > accuracy else "less sure than it is right"
