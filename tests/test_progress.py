"""What `thesis status` says while a run is going on, after it was killed, after a failure, after a change."""

import os
import signal
import time

import pandas as pd
import psutil
import pytest

from thesis_lib import progress


def status(project) -> tuple[dict[str, tuple[str, str]], str]:
    """name -> (state, about it), and the last line."""
    code, output = project.thesis("status")
    assert code == 0, output
    *rows, empty, summary = output.splitlines()
    assert not empty
    starts = {len(row) - len(row.split("  ", 1)[1].lstrip()) for row in rows}
    assert len(starts) == 1, "states stand in one column"
    return {row.split()[0]: tuple(map(str.strip, f"{row}  ".split("  ", 1)[1].strip().partition("  ")[::2]))
            for row in rows}, summary  # fmt: skip


def test_a_report_from_nothing_over_a_kill_and_a_failure_to_done(project):
    found, summary = status(project)
    assert found["corpus"] == ("not run", "") and found["train_1"] == ("not run", "after corpus")
    assert found["04_baseline"] == ("not run", "after train_1, train_2, 02_feature_extraction")
    assert summary == "mini  3 jobs: 3 not run; 3 notebooks: 3 not run; no run is going on"

    process = project.start("run", "--jobs", "1", TOY_STEP="3")
    for line in process.stdout:
        if "epoch 2/3" in line:
            break
    running = line.split()[0]
    waiting = {"train_1": "train_2", "train_2": "train_1"}[running]
    start = time.time()
    found, summary = status(project)
    assert time.time() - start < 2 * 3, "fast, three times slower than idle allowed for"
    assert found["corpus"][0] == "done" and found[running] == ("running", "epoch 2/3  1 s left")
    assert found[waiting] == ("queued", "")
    assert found["04_baseline"] == ("queued", f"after {', '.join(sorted([running, waiting]))}, 02_feature_extraction")
    assert summary.endswith("a run is going on") and "no run" not in summary
    for victim in [process, *psutil.Process(process.pid).children(recursive=True)]:
        victim.send_signal(signal.SIGKILL)
    process.communicate()
    found, summary = status(project)
    assert found[running] == ("stopped", "epoch 2/3  1 s left") and summary.endswith("no run is going on")

    project.values("04_baseline", "epochs: 3\nbroken: true")
    assert project.thesis("run")[0] == 1
    found, summary = status(project)
    assert found["train_1"] == ("done", f"accuracy 0.600  {found['train_1'][1].split('  ')[1]}")
    assert found["04_baseline"] == ("failed", "in section '4.2 Section': ValueError: no such colour")
    assert found["08_summary"] == ("not run", "after 04_baseline")
    assert "3 jobs: 3 done; 3 notebooks: 1 done, 1 failed, 1 not run" in summary

    project.values("04_baseline", "epochs: 3\nbroken: false")
    found, _ = status(project)
    assert found["train_1"] == ("out of date", "params/mini/04_baseline.yaml is newer") and found["corpus"][0] == "done"
    assert project.thesis("run")[0] == 0
    found, summary = status(project)
    assert {state for state, _ in found.values()} == {"done"} and found["train_2"][1].startswith("accuracy 0.700")
    (project.folder / "thesis_lib" / "toy.py").touch()
    os.utime(project.folder / "thesis_lib" / "cli.py")
    found, _ = status(project)
    assert {about for _, about in found.values()} == {"thesis_lib/toy.py is newer"}


def test_a_failing_stage_is_named_with_the_notebook_that_waits_for_it(project):
    project.values("04_baseline", "epochs: 13")
    assert project.thesis("run", "4")[0] == 1
    found, _ = status(project)
    assert found["train_1"] == found["train_2"] == ("failed", "RuntimeError: second line")
    assert found["04_baseline"] == ("failed", "as train_1 has")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("asformer split 1  epoch 3/120  loss 2.1  accuracy 0.795  2.5 s  left 7300 s",
         "asformer split 1  epoch 3/120  2.0 h left"),
        ("videoclip own  epoch 3/5 step 7/25  loss 4.661", "videoclip own  epoch 3/5 step 7/25"),
        ("epoch 1/2  left 40 s", "epoch 1/2  40 s left"),
        ("features 3/30 rgb-25-2 [67, 128]: 0.2 s", "features 3/30 rgb-25-2 [67, 128]: 0.2 s"),
    ],
)  # fmt: skip
def test_what_a_job_is_doing(line, expected):
    assert progress._doing(["starts", line]) == expected


def test_a_job_of_several_trainings_has_a_range(tmp_path):
    for number, accuracy in enumerate((0.81, 0.77, 0.79)):
        (tmp_path / str(number)).mkdir()
        pd.DataFrame({"epoch": [1, 2], "loss": [2, 1], "accuracy": [0.1, accuracy]}).to_csv(
            tmp_path / str(number) / "history.csv"
        )
    kept = [f"kept in {tmp_path / str(number)}" for number in range(3)]
    assert progress._result([*kept, "done  100.0 s"], tmp_path) == "accuracy 0.770 to 0.810 in 3 trainings  1.7 min"
    assert progress._result([f"kept in {tmp_path}", "done  1.0 s"], tmp_path) == "1 s", "nothing trained, no accuracy"
