"""What a notebook hands to the report: numbered figures and tables, and tidy rows of numbers with their provenance.

    report = results.Report("04_baseline", p)
    report.figure(fig, "timelines", "Most errors are early starts: one salad, four successive predictions.")
    report.table(frame, "per_split", "Five splits, final epoch.", formats={"edit score": ".1f"})
    report.add(method="ASFormer", weights="scratch", split=1, epoch=15, metric="accuracy", value=0.86, unit="0..1",
               protocol="final epoch, all frames")
    report.save()

Files, in reports/<profile>/: figures/04_timelines.svg, results/04_per_split.csv, results/04_baseline.json and .csv.
Figures and tables are displayed with the metadata {"thesis": {"kind", "number", "name", "caption"}}; the caption line
under each is an output of its own, of the kind "caption".
"""

import io
import json
import math
import os
import platform
import re
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from types import SimpleNamespace

import pandas as pd

from thesis_lib import paths, runs, tables

SCHEMA = 1
COLUMNS = ["method", "weights", "split", "epoch", "metric", "value", "unit", "protocol"]
METRICS = {  # every metric of the report and the units it may be given in
    "accuracy": ("0..1",),
    "recall": ("0..1",),
    "edit_score": ("0..100",),
    "frame_levenshtein": ("frames", "seconds"),  # seconds: of sequences with one label a second
    "f1@10": ("0..1",),
    "f1@25": ("0..1",),
    "f1@50": ("0..1",),
    "segments": ("a video",),
    "true_segments": ("a video",),
    "calibration_error": ("0..1",),
    "loss": ("nats",),
    "p_value": ("0..1",),
    "difference": ("0..1", "0..100"),
    "duration": ("seconds",),
    "count": ("count",),
}
RANGES = {"0..1": (0, 1), "0..100": (0, 100)}


class Report:
    """One notebook's part of the report.

    profile: the notebook's parameters `p` (they enter the provenance), or only the profile's name.
    """

    def __init__(self, notebook: str, profile: SimpleNamespace | str):
        self.notebook, self.prefix = notebook, notebook.split("_")[0]
        self.parameters = {} if isinstance(profile, str) else dict(vars(profile))
        self.profile = profile if isinstance(profile, str) else profile.profile
        self.folder = paths.report(self.profile)
        self.rows: dict[tuple, dict] = {}  # by everything but the value
        self.numbers: dict[tuple[str, str], str] = {}
        self.start = time.perf_counter()
        for name in ("results", "figures"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def figure(self, fig, name: str, caption: str) -> None:
        """Save a matplotlib figure as SVG, the same bytes for the same figure, and show it with number and caption."""
        import matplotlib.pyplot as plt

        text = io.StringIO()
        # Text as paths: the same look where the font is missing. Ids salted by name: a page can hold several.
        with plt.rc_context({"svg.hashsalt": f"{self.prefix}_{name}", "svg.fonttype": "path"}):
            fig.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        plt.close(fig)  # or JupyterLab shows it a second time
        svg = text.getvalue()
        (self.folder / "figures" / f"{self.prefix}_{name}.svg").write_text(svg, "utf-8")
        self._show("figure", name, caption, {"image/svg+xml": svg})

    def table(self, frame: pd.DataFrame, name: str, caption: str, formats: dict[str, str] | None = None) -> None:
        """Save a frame as CSV in full precision and show it rounded: 3 decimals, or `formats` by column (".1f").

        A missing value reads "not run". The index is shown if it has a name.
        """
        named = any(level is not None for level in frame.index.names)
        frame.to_csv(self.folder / "results" / f"{self.prefix}_{name}.csv", index=named)
        shown = {"text/html": tables.to_html(frame, formats), "text/plain": tables.to_text(frame, formats)}
        self._show("table", name, caption, shown)

    def add(self, *, method: str, weights: str, split, epoch, metric: str, value, unit: str, protocol: str, **more):
        """Add one tidy row. split, epoch: ints, or None where the number belongs to none.

        value: None for "not run". more: further columns (seed=0, videos=4). Raises ValueError for an unknown metric,
        a unit that the metric does not have, a value outside its unit's range or not finite.
        """
        row = dict(zip(COLUMNS, (method, weights, split, epoch, metric, value, unit, protocol), strict=True)) | more
        where = f"{self.notebook}, row {len(self.rows) + 1}"
        if metric not in METRICS:
            raise ValueError(f"{where}: unknown metric {metric!r}: expected one of {', '.join(METRICS)}")
        if unit not in METRICS[metric]:
            raise ValueError(f"{where}: {metric} in {unit!r}: expected {' or '.join(METRICS[metric])}")
        if value is not None:
            row["value"] = value = float(value)
            low, high = RANGES.get(unit, (-math.inf, math.inf)) if metric != "difference" else (-math.inf, math.inf)
            if not math.isfinite(value) or not low <= value <= high:
                raise ValueError(f"{where}: {metric} is {value}: expected a finite number in {unit} (None for not run)")
        for name in ("split", "epoch"):
            row[name] = None if row[name] is None else int(row[name])
        key = tuple((name, row[name]) for name in row if name != "value")
        if self.rows.setdefault(key, row)["value"] != row["value"]:
            raise ValueError(f"{where}: {metric} of {method} was {self.rows[key]['value']} before: say what differs")

    def save(self) -> None:
        """Write the rows with their provenance to results/<notebook>.json and .csv."""
        document = {
            "schema": SCHEMA,
            "notebook": self.notebook,
            "profile": self.profile,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": provenance() | {
                "parameters": self.parameters,
                "seed": self.parameters.get("seed"),
                "wall_time_s": round(time.perf_counter() - self.start, 2),
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            },
            "rows": list(self.rows.values()),
        }  # fmt: skip
        text = json.dumps(document, indent=1, allow_nan=False)
        target = self.folder / "results" / f"{self.notebook}.json"
        runs.atomic_save(target, lambda file: file.write(text.encode()))
        _frame(list(self.rows.values())).to_csv(target.with_suffix(".csv"), index=False)

    def _show(self, kind: str, name: str, caption: str, data: dict) -> None:
        from IPython.display import display

        same_kind = sum(known == kind for known, _ in self.numbers)
        number = self.numbers.setdefault((kind, name), f"{self.prefix.lstrip('0') or '0'}.{same_kind + 1}")
        line = f"{kind.capitalize()} {number}. {caption}"
        about = {"kind": kind, "number": number, "name": name, "caption": caption}
        display({"text/plain": line} | data, raw=True, metadata={"thesis": about})
        markdown = f"**{kind.capitalize()} {number}.** {caption}"
        display(
            {"text/plain": line, "text/markdown": markdown},
            raw=True,
            metadata={"thesis": {"kind": "caption", "number": number, "name": name}},
        )


def load(profile: str) -> pd.DataFrame:
    """All tidy rows of a profile, one frame: the column `notebook`, COLUMNS, and what rows had more."""
    rows = [{"notebook": one["notebook"]} | row for one in documents(profile) for row in one["rows"]]
    return _frame(rows, ["notebook", *COLUMNS])


def documents(profile: str) -> list[dict]:
    """The results files of a profile as they are, by notebook: schema, notebook, profile, created, provenance, rows."""
    found = []
    for file in sorted((paths.report(profile) / "results").glob("*.json")):
        document = json.loads(file.read_text("utf-8"))
        if document.get("schema") != SCHEMA:
            raise ValueError(f"{file}: schema {document.get('schema')}: expected {SCHEMA}; run its notebook again")
        found.append(document)
    return found


def provenance() -> dict:
    """What made the numbers: commit and whether sources differ from it, versions, hardware."""
    torch = sys.modules.get("torch")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch else []
    return {
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {"python": platform.python_version()} | _versions(),
        "hardware": {
            "machine": platform.machine(),
            "cpus": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "gpus": gpus,
        },
    }


def _git(*command: str) -> str:
    try:
        done = subprocess.run(["git", *command], cwd=paths.ROOT, capture_output=True, text=True)
    except FileNotFoundError:  # no git on this machine
        return ""
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    """Installed versions of the packages that pyproject.toml names."""
    installed = {distribution.name: distribution.version for distribution in metadata.distributions()}
    named = [re.match(r"[\w.-]+", requirement)[0] for requirement in metadata.requires("thesis-lib") or ()]
    return {name: installed[name] for name in named if name in installed}


def _frame(rows: list[dict], columns: list[str] = COLUMNS) -> pd.DataFrame:
    more = {name: None for row in rows for name in row if name not in columns}
    frame = pd.DataFrame(rows, columns=[*columns, *more])
    return frame.astype({"split": "Int64", "epoch": "Int64", "value": float})
