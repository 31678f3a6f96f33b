"""The whole report at the smallest size, by the command that users run. Other tests find what it computed."""

import subprocess
import sys

import pytest

from thesis_lib import params, paths, results

if not params.notebooks():
    pytest.skip("no notebooks yet", allow_module_level=True)


def run():
    command = [sys.executable, "-m", "thesis_lib.cli", "run", "--profile", "smoke", "--jobs", "2"]
    return subprocess.run(command, cwd=paths.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module", autouse=True)
def report():
    done = run()
    assert done.returncode == 0, done.stdout


def test_every_notebook_is_executed():
    executed = {path.name for path in (paths.report("smoke") / "notebooks").iterdir()}
    assert executed == {f"{name}.ipynb" for name in params.notebooks()}


def test_the_report_is_there_in_both_forms():
    page, pdf = (paths.report("smoke") / name for name in ("report.html", "report.pdf"))
    assert 10_000 < page.stat().st_size < 15_000_000
    assert pdf.read_bytes().startswith(b"%PDF") and pdf.stat().st_size > 10_000


def test_results_hold_rows_of_finite_numbers():
    frame = results.load("smoke")
    assert len(frame) and frame.groupby("notebook").value.count().gt(0).all()


def test_a_second_run_has_nothing_to_do():
    done = run()
    assert done.returncode == 0 and done.stdout.startswith("nothing to do"), done.stdout
