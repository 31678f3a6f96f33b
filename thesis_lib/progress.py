"""How far a report is, read from what runs leave behind: logs, their locks, results, executed notebooks.

Nothing is computed and nothing heavy is imported, so that one can look at any time, also while a run is going on,
here or on other machines that share the folder.
"""

import csv
import fcntl
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from thesis_lib import execute, graph, params, paths, rules

EPOCH = re.compile(r"^(.*?)\s*\bepoch (\d+)/(\d+)(?: step (\d+)/(\d+))?")
LEFT = re.compile(r"left (\d+) s$")
KEPT = re.compile(r"  kept in (.+)$")
TOOK = re.compile(r"  done  (\d+\.\d) s$")


@dataclass(frozen=True)
class Row:
    """A job or a notebook, its state, and one line about it.

    state: done, running, failed, stopped (killed: it will go on), out of date, queued (a run is going on), not run
    """

    name: str
    state: str
    detail: str


def rows(profile: str) -> list[Row]:
    """The jobs of a profile in the order of the graph, then its notebooks."""
    jobs, folder, found = graph.jobs(profile), paths.report(profile), {}
    idle = "queued" if locked(folder / ".lock") else "not run"
    code = _newest(rules.sources())
    for job, about in jobs.items():
        files = rules.parameters(about["notebook"], profile)
        found[job] = _row(job, profile, folder / "jobs" / f"{job}.done", files, code, about["needs"], found, idle)
    for name in params.notebooks():
        needs, files = rules.stages(name, jobs) + rules.needs(name), rules.parameters(name, profile)
        found[name] = _row(name, profile, execute.target(name, profile), files, code, needs, found, idle)
    return list(found.values())


def table(profile: str) -> str:
    """The rows as aligned text, and their sum in a last line."""
    found = rows(profile)
    name, state = (max(len(getattr(row, column)) for row in found) for column in ("name", "state"))
    lines = [f"{row.name:{name}}  {row.state:{state}}  {row.detail}".rstrip() for row in found]
    split = len(found) - len(params.notebooks())
    sums = []
    for what, part in (("jobs", found[:split]), ("notebooks", found[split:])):
        counts = Counter(row.state for row in part)
        sums.append(f"{len(part)} {what}: {', '.join(f'{number} {state}' for state, number in counts.items())}")
    going = "a run is going on" if locked(paths.report(profile) / ".lock") else "no run is going on"
    return "\n".join([*lines, "", f"{profile}  {'; '.join(sums)}; {going}"])


def locked(path: Path) -> bool:
    """Whether a process that is alive holds the lock of a file."""
    if not path.exists():
        return False
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _row(name, profile, target, files, code, needs, found, idle) -> Row:
    log = paths.report(profile) / "logs" / f"{name}.log"
    lines = log.read_text("utf-8", errors="replace").splitlines() if log.exists() else []
    lines = [line.removeprefix(f"{name}  ") for line in lines]
    failed = next((number for number, line in enumerate(lines) if line.startswith("FAILED")), None)
    waits = [need for need in needs if need in found and found[need].state != "done"]
    if locked(log):
        return Row(name, "running", _doing(lines))
    if failed is not None and not (target.exists() and target.stat().st_mtime > log.stat().st_mtime):
        where = lines[failed].removeprefix("FAILED").strip()
        return Row(name, "failed", ": ".join(filter(None, [where, *map(str.strip, lines[failed + 1 : failed + 2])])))
    if target.exists():
        newer = _newest([*files, code])
        if newer.stat().st_mtime > target.stat().st_mtime:
            return Row(name, "out of date", f"{paths.short(newer)} is newer")
        stale = next((need for need in waits if found[need].state == "out of date"), None)
        return Row(name, "out of date", f"as {stale} is") if stale else Row(name, "done", _result(lines, log.parent))
    if target.with_suffix(".failed.ipynb").exists():  # a job that it needs has failed
        return Row(name, "failed", f"as {waits[0]} has" if waits else "")
    if target.with_suffix(".stale.ipynb").exists():
        return Row(name, "out of date", "made before a change, and what it needs has failed")
    if lines and not lines[-1].startswith("done  "):
        return Row(name, "stopped", _doing(lines))
    return Row(name, idle, f"after {', '.join(waits)}" if waits else "")


def _doing(lines: list[str]) -> str:
    """The last line, of a training: what, which epoch, how long it still takes."""
    last = lines[-1].strip() if lines else ""
    if not (epoch := EPOCH.match(last)):
        return last
    what, number, of, step, steps = epoch.groups()
    within = f" step {step}/{steps}" if step else ""
    left = LEFT.search(last)
    return f"{what}  epoch {number}/{of}{within}".strip() + (f"  {_time(int(left[1]))} left" if left else "")


def _result(lines: list[str], logs: Path) -> str:
    """Accuracy (else loss) of the last epoch of all that the job has trained, and the seconds it took."""
    folders = [paths.ROOT / kept[1] for line in lines if (kept := KEPT.search(f"  {line}"))]
    last = [row for folder in folders if (row := _last_epoch(folder / "history.csv"))]
    measured = next((name for name in ("accuracy", "loss") if last and all(row.get(name) for row in last)), None)
    values = sorted(float(row[measured]) for row in last) if measured else []
    told = [f"{measured} {values[0]:.3f}"] if values else []
    if len(values) > 1:
        told = [f"{measured} {values[0]:.3f} to {values[-1]:.3f} in {len(values)} trainings"]
    took = TOOK.search(f"  {lines[-1]}") if lines else None
    return "  ".join([*told, f"{_time(float(took[1]))}"] if took else told)


def _last_epoch(history: Path) -> dict | None:
    if not history.is_file():
        return None
    with open(history, newline="") as file:
        return max(csv.DictReader(file), key=lambda row: int(row["epoch"]), default=None)


def _newest(files: list[Path]) -> Path:
    return max(files, key=lambda file: file.stat().st_mtime)


def _time(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
