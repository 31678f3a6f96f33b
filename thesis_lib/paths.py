"""Every folder of the project by name. `THESIS_RUNS` and `THESIS_REPORTS` move the two that a run writes to."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params"
RUNS = Path(os.environ.get("THESIS_RUNS", ROOT / "runs"))
REPORTS = Path(os.environ.get("THESIS_REPORTS", ROOT / "reports"))


def runs(profile: str) -> Path:
    """Where the heavy steps of a profile keep their results."""
    return RUNS / profile


def report(profile: str) -> Path:
    """Where the notebooks of a profile leave results, figures, executed notebooks and the report itself."""
    return REPORTS / profile
