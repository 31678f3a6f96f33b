"""The graph of the report on a toy project: order, kills, failures, what a change reruns, nothing to do."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil

from thesis_lib import paths


def lines_of(output: str, *words: str) -> list[int]:
    """Numbers of the first line with each word."""
    lines = output.splitlines()
    return [next(number for number, line in enumerate(lines) if word in line) for word in words]


def test_a_report_from_a_killed_start_over_a_failure_to_nothing_to_do(project):
    process = project.start("run", TOY_STEP="0.3")
    for line in process.stdout:
        if "epoch 2/3" in line:
            break
    for victim in [process, *psutil.Process(process.pid).children(recursive=True)]:
        victim.send_signal(signal.SIGKILL)
    process.communicate()

    code, output = project.thesis("run")
    assert code == 0 and "goes on" in output, output
    assert {log.read_text() for log in project.folder.glob("runs/mini/toy.train/*/log.txt")} == {"xxx"}
    order = lines_of(output, "02_feature_extraction  done", "04_baseline  done", "08_summary  done")
    assert order == sorted(order) and lines_of(output, "train_1  epoch 3/3")[0] < order[1]
    assert "04_baseline  epoch" not in output, "the notebook finds the stages done"
    assert "epoch 3/3" in project.report("logs/train_1.log").read_text()
    assert project.report("report.html").read_text() == "02_feature_extraction.ipynb 04_baseline.ipynb 08_summary.ipynb"

    project.values("04_baseline", "epochs: 3\nbroken: true")
    code, output = project.thesis("run")
    at = lines_of(output, "04_baseline  FAILED in section '4.2 Section'")[0]
    assert code == 1 and [line.split("  ", 1)[1].strip() for line in output.splitlines()[at + 1 : at + 4]] == [
        "ValueError: no such colour",
        "partial notebook: reports/mini/notebooks/04_baseline.failed.ipynb",
        "go on with: thesis notebook 04 --profile mini",
    ]
    assert "08_summary  out of date" in output
    assert "04_baseline.failed.ipynb" in project.report("report.html").read_text()

    project.values("04_baseline", "epochs: 4\nbroken: false")  # reruns what depends on it, nothing else
    code, output = project.thesis("run")
    assert code == 0 and "train_2  epoch 4/4" in output and "08_summary  done" in output
    assert "corpus" not in output and "02_feature_extraction" not in output
    assert sorted(file.name for file in project.report("notebooks").glob("0[48]*")) == [
        "04_baseline.ipynb",
        "08_summary.ipynb",
    ]

    start = time.time()
    code, output = project.thesis("run")
    assert (code, output) == (0, "nothing to do: reports/mini/report.html, reports/mini/report.pdf up to date\n")
    assert time.time() - start < 15


def test_a_failing_stage_stands_for_its_notebook_and_is_tried_again(project):
    project.values("04_baseline", "epochs: 13")
    code, output = project.thesis("run", "4")
    assert code == 1 and "train_1      RuntimeError: second line" in output and "04_baseline  failed" in output
    assert "Before the first cell: train_" in project.report("notebooks/04_baseline.failed.ipynb").read_text()
    assert 'raise RuntimeError("loss is not finite' in project.report("logs/train_1.log").read_text()
    _, output = project.thesis("status")
    assert re.search(r"^train_1 +failed +RuntimeError: second line$", output, re.MULTILINE)
    code, output = project.thesis("run", "4")
    assert code == 1 and "train_1  FAILED" in output, "a failure is not taken for done"


def test_a_graph_that_cannot_be_read_says_why(project):
    project.change("stages", "def jobs(profile):", "def jobs(profile):\n    undefined_name")
    code, output = project.thesis("run")
    assert code == 1 and "undefined_name" in output


def test_jobs_on_several_processes_and_jobs_that_share_a_folder(tmp_path):
    """Of the real Snakefile with a profile whose pretraining shares two GPUs: the command, the GPUs asked for.

    Its features of frames are two jobs side by side, each with a GPU; the baseline waits for both.
    """
    values = tmp_path / "params" / "two"
    shutil.copytree(paths.PARAMS / "smoke", values)
    (values / "common.yaml").write_text((values / "common.yaml").read_text().replace("profile: smoke", "profile: two"))
    file = values / "05_pretraining.yaml"
    file.write_text(file.read_text().replace("processes: 1", "processes: 2"))
    file = values / "02_feature_extraction.yaml"
    file.write_text(file.read_text().replace("extraction_shares: 1", "extraction_shares: 2"))
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "THESIS_PARAMS": str(tmp_path / "params")}
    command = [sys.executable, "-m", "snakemake", "jobs/pretraining_own.done", "jobs/baseline_split1.done"]
    command += ["--snakefile", paths.ROOT / "Snakefile"]
    command += ["--config", "profile=two", "--cores", "2", "--dry-run", "--printshellcmds", "--nolock"]
    plan = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120).stdout
    job = plan.partition("stage_pretraining_own:")[2].partition("\n\n")[0]
    assert "-m thesis_lib.gpus 2 env OMP_NUM_THREADS=1 " in job
    assert "--nproc_per_node=2 -m thesis_lib.cli stage pretraining_own --profile two" in job
    assert "gpu=2" in job and "gpu=1" in plan.partition("stage_s3d_weights:")[2].partition("\n\n")[0]
    for share in (0, 1):
        job = plan.partition(f"stage_i3d_features_{share}:")[2].partition("\n\n")[0]
        assert f"stage i3d_features_{share} --profile two" in job and "gpu=1" in job
    waits = plan.partition("stage_baseline_split1:")[2].partition("\n\n")[0]
    assert "jobs/i3d_features_0.done" in waits and "jobs/i3d_features_1.done" in waits
