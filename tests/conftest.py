"""A toy project: the real command, graph and plumbing around three notebooks and a stage that take no time."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from thesis_lib import runs

ROOT = Path(__file__).resolve().parents[1]
STAGES = """
from thesis_lib import params, runs, toy

SPLITS = (1, 2)
PROCESSES = {}

def jobs(profile):
    found = {"corpus": {"stage": "corpus", "arguments": {}, "needs": [], "notebook": "02_feature_extraction"}}
    for split in SPLITS:
        about = {"stage": "train", "arguments": {"split": split}, "needs": ["corpus"], "notebook": "04_baseline"}
        found[f"train_{split}"] = about | PROCESSES.get(split, {})
    return found

def run_stage(name, profile, **arguments):
    return {"corpus": corpus, "train": train}[name](params.load("04_baseline", profile), **arguments)

def corpus(p):
    return runs.cached(toy.corpus, profile=p.profile, seed=p.seed)

def train(p, split):
    return runs.cached(toy.train, profile=p.profile, together=True, corpus=corpus(p), split=split, epochs=p.epochs)
"""
TOY = """
import glob, os, time

def corpus(folder, *, seed):
    (folder / "corpus.txt").write_text(str(seed))

def train(folder, *, corpus, split, epochs):
    if epochs == 13:
        raise RuntimeError("loss is not finite\\nsecond line")
    log, rank, begun = folder / "log.txt", os.environ.get("RANK", "0"), time.time()
    diary = os.environ.get("TOY_DIARY")
    if diary:  # wait for another split to begin: that they can run beside each other is to be seen
        open(f"{diary}.{split}", "w").close()
        while time.time() < begun + 60 and len(glob.glob(f"{diary}.*")) < 2:
            time.sleep(0.05)
    for epoch in range(len(log.read_text()) if log.exists() else 0, epochs):
        left = f"  {float(os.environ.get('TOY_STEP', 0)):.1f} s  left {epochs - epoch - 1} s"
        print(f"epoch {epoch + 1}/{epochs}  loss {1 / (epoch + 1):.3f}{left}")
        time.sleep(float(os.environ.get("TOY_STEP", 0)))
        if rank == "0":
            with open(log, "a") as file:
                file.write("x")
    if rank == "0":
        (folder / "history.csv").write_text(f"epoch,loss,accuracy\\n{epochs},0.5,{0.5 + split / 10}\\n")
    print("threads", os.environ["OMP_NUM_THREADS"])
    if diary:
        with open(diary, "a") as file:
            file.write(f"{split} {rank} {os.environ.get('CUDA_VISIBLE_DEVICES')} {begun} {time.time()}\\n")
"""
REPORT = """
from thesis_lib import paths

def build(profile):
    folder = paths.report(profile)
    for name in ("report.html", "report.pdf"):
        (folder / name).write_text(" ".join(sorted(file.name for file in folder.glob("notebooks/*.ipynb"))))
    return [folder / "report.html", folder / "report.pdf"]
"""
TAKEN = "__init__ cli execute gpus kernels params paths progress results rules runs tables warm".split()
COMMON = 'profile: str = "smoke"  # which parameters\nseed: int = 0  # of the corpus\n'
BASELINE = COMMON + "epochs: int = 2  # of training\nbroken: bool = False  # fail in the notebook\n"
RECORD = "from thesis_lib import params, results, stages\np = params.from_cell(globals())"


class Project:
    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "thesis_lib").mkdir(parents=True)
        self.add(*TAKEN)
        shutil.copy(ROOT / "Snakefile", folder)
        library = {"stages": STAGES, "graph": "from thesis_lib.stages import jobs", "toy": TOY, "report": REPORT}
        for name, text in library.items():
            (folder / "thesis_lib" / f"{name}.py").write_text(text)
        (folder / "notebooks").mkdir()
        train = "folders = [stages.train(p, split) for split in (1, 2)]"
        fail = "print('half a line', end='')\nif p.broken:\n    raise ValueError('no such colour')"
        rows = (
            'report = results.Report("04_baseline", p)\nreport.add(method="toy", weights="", split=1, epoch=p.epochs,\n'
            '           metric="accuracy", value=0.5, unit="0..1", protocol="none")\nreport.save()'
        )
        self.notebook("02_feature_extraction", COMMON, ["stages.corpus"])
        self.notebook("04_baseline", BASELINE, [train, fail, rows])
        self.notebook("08_summary", COMMON, ["len(results.load(p.profile))"])
        self.values("common", "profile: mini\nseed: 3")
        self.values("04_baseline", "epochs: 3\nbroken: false")

    def notebook(self, name: str, parameters: str, sources: list[str]) -> None:
        cells = [new_markdown_cell("# Title"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
        cells.append(new_code_cell(RECORD))
        for number, source in enumerate(sources, 1):
            cells += [new_markdown_cell(f"## {name[1]}.{number} Section\nWords."), new_code_cell(source)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        document = new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(document, self.folder / "notebooks" / f"{name}.ipynb")

    def values(self, name: str, text: str) -> None:
        file = self.folder / "params" / "mini" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def add(self, *modules: str) -> None:
        """Take modules of the real library over."""
        for name in modules:
            file = self.folder / "thesis_lib" / f"{name}.py"
            file.parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / "thesis_lib" / f"{name}.py", file)

    def change(self, module: str, old: str, new: str) -> None:
        """Replace a piece of the toy library."""
        file = self.folder / "thesis_lib" / f"{module}.py"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        outside = {name: value for name, value in os.environ.items() if name not in ("THESIS_RUNS", "THESIS_REPORTS")}
        return subprocess.Popen(
            [sys.executable, "-m", "thesis_lib.cli", *arguments],
            cwd=self.folder,
            env=outside | {"PYTHONPATH": str(self.folder)} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def thesis(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit code and all that `thesis <arguments>` printed."""
        process = self.start(*arguments, **environment)
        output = process.communicate(timeout=300)[0]
        return process.returncode, output

    def report(self, path: str) -> Path:
        return self.folder / "reports" / "mini" / path


def pytest_collection_modifyitems(items):
    """The report of smoke first, which takes longest; notebooks last, which find its results."""
    items.sort(key=lambda item: (item.path.suffix == ".ipynb", item.path.name != "test_report_smoke.py"))


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def networks(monkeypatch):
    """A function of modules of a stage -> the networks, of those with official files, whose edit changes its key."""
    from thesis_lib.models.official import KINDS

    read = runs._read

    def key(modules, edited=None):
        def reader(file, module, changed):
            code, imported = read(file, module, changed)
            return code + " edited" * (module == f"thesis_lib.models.{edited}"), imported

        monkeypatch.setattr(runs, "_read", reader)
        return [runs.fingerprint(import_module(module).__name__) for module in modules]

    return lambda *modules: {name for name in KINDS.values() if key(modules, edited=name) != key(modules)}
