"""One notebook or one stage: lines with labels, and the one block that a failure ends with."""

import io

import nbformat
import pytest

from thesis_lib import execute


def test_lines_get_their_label_however_they_come_in(capsys):
    log = io.StringIO()
    lines = execute._Lines("04", log)
    for text in ("epoch 1\nepo", "ch 2\n", "10 %\r20 %\n", "half"):
        lines.write(text)
    lines.end("done")
    assert log.getvalue() == capsys.readouterr().out == "04  epoch 1\n04  epoch 2\n04  20 %\n04  half\n04  done\n"


def test_a_mistake_ends_before_the_kernel_starts(project):
    project.values("04_baseline", "epohcs: 3")
    code, output = project.thesis("notebook", "04")
    expected = "thesis: params/mini/04_baseline.yaml: epohcs: 3: no such parameter, did you mean 'epochs'?\n"
    assert (code, output) == (2, expected)
    assert not (project.folder / "reports").exists()


def test_a_notebook_alone_computes_what_it_misses(project):
    code, output = project.thesis("notebook", "04")
    assert code == 0 and "04_baseline  epoch 3/3  loss 0.333" in output
    made = nbformat.read(project.report("notebooks/04_baseline.ipynb"), 4)
    assert made.metadata.papermill.parameters == {"profile": "mini", "seed": 3, "epochs": 3, "broken": False}
    assert project.report("logs/04_baseline.log").read_text() == output


def test_values_of_the_command_line_leave_the_report_alone(project):
    code, output = project.thesis("notebook", "04", "-p", "epochs", "1", "-p", "broken", "true")
    assert code == 1 and "epoch 1/1" in output
    assert "go on with: thesis notebook 04 --profile mini -p epochs 1 -p broken true" in output
    assert (project.folder / "reports/custom/mini/notebooks/04_baseline.failed.ipynb").exists()
    assert not project.report("").exists()


def test_a_dead_kernel_is_a_failure_like_others(project):
    project.notebook(
        "06_zero_shot", 'profile: str = "smoke"  # which parameters\n', ["1 + 1", "import os\nos._exit(9)"]
    )
    code, output = project.thesis("notebook", "06")
    assert code == 1 and "FAILED in section '6.2 Section'" in output and "DeadKernelError: Kernel died" in output


@pytest.mark.parametrize("arguments", [["train_2"], ["train", "split=2"]])
def test_a_stage_by_its_job_or_by_its_arguments(project, arguments):
    code, output = project.thesis("stage", *arguments)
    assert code == 0 and f"{arguments[0]}  epoch 3/3" in output
