"""Which files the rules of the Snakefile read; `thesis status` says by them what is out of date."""

from pathlib import Path

from thesis_lib import params, paths

LIBRARY = paths.ROOT / "thesis_lib"
NEEDS = {  # besides their stages, notebooks need others: whose results they read, or what the reader has seen by then
    "03_cropping_experiment": ["02_feature_extraction"],
    "04_baseline": ["02_feature_extraction"],
    "05_pretraining": ["02_feature_extraction"],
    "06_zero_shot": ["05_pretraining"],
    "07_fine_tuning": ["04_baseline", "05_pretraining"],
}
ASKS = {  # whose stages a notebook asks besides its own
    "A3_svitt": ["04_baseline", "07_fine_tuning", "A1_videomae", "A2_alpro"],  # every system, whether it looks at order
}
SUMMARY = "08_summary"  # reads what all others measured
PAGE = ("report", "chapters", "markup", "rendering")  # make the page alone
COMMANDS = "cli evaluate execute gpus graph kernels progress rules warm".split()  # no number depends on them


def page() -> list[Path]:
    """The code of the page."""
    files = [LIBRARY / f"{name}.py" for name in PAGE]
    return [file for file in files if file.exists()] + sorted(LIBRARY.glob("report_style/*"))


def sources() -> list[Path]:
    """The code that results depend on, as a whole; `runs.cached` knows of each what."""
    left_out = [LIBRARY / f"{name}.py" for name in (*PAGE, *COMMANDS)] + [LIBRARY / "data" / "own_videos.py"]
    return sorted(file for file in LIBRARY.rglob("*.py") if file not in left_out)


def parameters(notebook: str, profile: str) -> list[Path]:
    """A notebook and the files of its parameters."""
    folder = paths.PARAMS / profile
    files = [paths.NOTEBOOKS / f"{notebook}.ipynb", folder / "common.yaml", folder / f"{notebook}.yaml"]
    return [file for file in files if file.exists()]


def notebooks(appendices: bool = True) -> list[str]:
    """The notebooks of a report."""
    return [name for name in params.notebooks() if appendices or not name.startswith("A")]


def stages(notebook: str, jobs: dict[str, dict]) -> list[str]:
    """The jobs that come before a notebook."""
    asked = [notebook, *ASKS.get(notebook, [])]
    return [name for name, job in jobs.items() if job["notebook"] in asked]


def first(known: list[str], jobs: dict[str, dict]) -> list[str]:
    """The jobs that go before others: of the notebook that waits for most jobs, and all that these need.

    Else it would run alone at the end.
    """
    found = max((stages(notebook, jobs) for notebook in known if notebook != SUMMARY), key=len)
    for name in found:
        found += [need for need in jobs[name]["needs"] if need not in found]
    return found


def needs(notebook: str, known: list[str] | None = None) -> list[str]:
    """The notebooks that come before one, of those `known`: all unless given."""
    known = notebooks() if known is None else known
    wanted = [name for name in known if name != SUMMARY] if notebook == SUMMARY else NEEDS.get(notebook, [])
    return [name for name in wanted if name in known]
