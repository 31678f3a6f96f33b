"""One set of pins: pyproject.toml, environment.yml and what the code imports agree."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def name_of(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def imported(folder: Path) -> set[str]:
    nodes = [node for file in folder.rglob("*.py") for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in names} - set(sys.stdlib_module_names) - {"thesis_lib"}


def test_the_gpu_server_gets_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert pip == PROJECT["dependencies"] + EXTRAS["gpu"] + EXTRAS["slurm"]
    assert "python=3.11" in environment["dependencies"]


def test_everything_is_pinned():
    everything = PROJECT["dependencies"] + [requirement for extra in EXTRAS.values() for requirement in extra]
    assert [requirement for requirement in everything if not re.fullmatch(r"[\w.-]+==[\w.]+", requirement)] == []


def test_faiss_is_installed_once():
    assert [name_of(one) for one in PROJECT["dependencies"] if name_of(one).startswith("faiss")] == []


@pytest.mark.parametrize(
    "folder, extras", [("thesis_lib", ["cpu"]), ("tests", ["cpu", "dev"])], ids=["thesis_lib", "tests"]
)
def test_every_import_has_its_pin(folder, extras):
    pinned = {name_of(one) for one in PROJECT["dependencies"] + [one for extra in extras for one in EXTRAS[extra]]}
    providers = packages_distributions()
    optional = {"fairseq", "omegaconf", "transformers"}  # imported where present
    here = {"benchmarks", "tests", "toy"}  # toy: written by a test
    missing = {
        module: providers.get(module)
        for module in imported(ROOT / folder) - optional - here
        if not {name_of(name) for name in providers.get(module, ())} & pinned
    }
    assert missing == {}
