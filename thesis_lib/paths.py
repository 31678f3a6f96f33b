"""Every folder of the project by name. `THESIS_RUNS`, `THESIS_REPORTS` and `THESIS_PARAMS` move three of them."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PARAMS = Path(os.environ.get("THESIS_PARAMS", ROOT / "params"))
RUNS = Path(os.environ.get("THESIS_RUNS", ROOT / "runs"))
REPORTS = Path(os.environ.get("THESIS_REPORTS", ROOT / "reports"))


def runs(profile: str) -> Path:
    """Where the heavy steps of a profile keep their results."""
    return RUNS / profile


def report(profile: str) -> Path:
    """Where the notebooks of a profile leave results, figures, executed notebooks and the report itself."""
    return REPORTS / profile


def short(path: Path | str) -> str:
    """A path as a line of output shows it: from the project's folder where it lies below it."""
    path = Path(path)
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
