"""The Makefile: what each target would run, and what it says where Python 3.11 is missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def checkout(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(folder, *arguments):
    return subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)


def test_a_fresh_checkout_installs_torch_first_then_runs(checkout):
    lines = make(checkout, "-n", "report", "PROFILE=smoke", "JOBS=1").stdout.splitlines()
    steps = ["-m venv .venv", "pip install --quiet torch==", "pip install --quiet -e '.[cpu,dev]'", "touch .venv"]
    steps.append(".venv/bin/thesis run --profile smoke --jobs 1")
    at = [next(number for number, line in enumerate(lines) if step in line) for step in steps]
    assert at == sorted(at)
    assert lines[at[1]].split()[-1].count("torch==") == 1, "one version"


def test_an_installed_checkout_installs_again_only_for_new_pins(checkout):
    (checkout / ".venv").mkdir()
    for stamp in ("installed", "oracle"):
        (checkout / ".venv" / stamp).touch()
    assert "pip" not in make(checkout, "-n", "test").stdout
    assert "pytest tests notebooks --nbval-lax" in make(checkout, "-n", "test").stdout
    assert "pip" in make(checkout, "-n", "-W", "pyproject.toml", "test").stdout


def test_the_official_code_is_installed_for_tests_alone(checkout):
    lines = make(checkout, "-n", "test").stdout.splitlines()
    steps = ["-e '.[cpu,dev]'", "-e '.[fairseq]'", "pip install --quiet --no-deps fairseq==", "-m pytest tests"]
    at = [next(number for number, line in enumerate(lines) if step in line) for step in steps]
    assert at == sorted(at) and lines[at[2]].count("fairseq==") == 1
    for target in ("report", "lab"):
        assert "fairseq" not in make(checkout, "-n", target).stdout


def test_another_python_is_refused_in_one_line(checkout):
    fake = checkout / "python3"
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    done = make(checkout, "report", f"PYTHON={fake}")
    assert done.returncode != 0 and f"Python 3.11 is needed; '{fake}' is not it" in done.stdout
    assert not (checkout / ".venv").exists()


def test_clean_keeps_the_readme_of_reports(checkout):
    for name in ("reports/mini/report.html", "reports/README.md", "runs/mini/x/y"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    assert make(checkout, "clean").returncode == 0
    assert [path.name for path in (checkout / "reports").iterdir()] == ["README.md"]
    assert not (checkout / "runs").exists()
