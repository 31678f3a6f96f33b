"""GPUs of one machine: every job sees its own, others wait; shown by jobs that write down what they see."""

import os
import subprocess
import sys

import pytest

from thesis_lib import gpus, paths


@pytest.fixture
def free(tmp_path, monkeypatch):
    """A machine on which nobody holds a GPU."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def ask(count, known, command):
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT)} | ({"THESIS_GPUS": known} if known else {})
    return subprocess.Popen(
        [sys.executable, "-m", "thesis_lib.gpus", str(count), *command],
        env=environment,
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
        text=True,
    )


SHOW = ["sh", "-c", 'echo "${CUDA_VISIBLE_DEVICES-all}"; read line']  # holds what it has until it is told something


def test_a_gpu_goes_to_one_process_and_comes_back_however_it_ends(free):
    first, second = (ask(1, "4,7", SHOW) for _ in range(2))
    seen = [process.stdout.readline().strip() for process in (first, second)]
    assert sorted(seen) == ["4", "7"]
    both = ask(2, "4,7", SHOW)
    with pytest.raises(subprocess.TimeoutExpired):
        both.wait(1.5)
    first.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        both.wait(1.5)
    third = ask(1, "4,7", SHOW)  # the one that waits for two does not keep the one that is free
    assert third.stdout.readline().strip() == seen[0]
    second.communicate("on\n")
    third.communicate("on\n")
    assert both.stdout.readline().strip() == "4,7"
    both.communicate("on\n")


@pytest.mark.parametrize("count, known", [(1, ""), (0, "4,7")])
def test_without_a_request_or_gpus_to_hand_out_nothing_changes(free, count, known):
    assert ask(count, known, SHOW).communicate("on\n")[0].strip() == "all"


def test_the_exit_code_is_the_commands(free):
    process = ask(1, "0", ["sh", "-c", "exit 7"])
    process.communicate()
    assert process.returncode == 7


def test_names_come_from_what_is_visible(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus.names(3) == "0,1,2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8a,3,5")
    assert gpus.names(2) == "GPU-8a,3"
    with pytest.raises(ValueError, match="--gpus 4: expected CUDA_VISIBLE_DEVICES=GPU-8a,3,5 has 3"):
        gpus.names(4)
    with pytest.raises(ValueError, match="--gpus 0: expected at least 1"):
        gpus.names(0)


def test_splits_run_beside_each_other_each_on_gpus_of_its_own(project, tmp_path):
    """Five splits on three GPUs; the fifth has two processes, which share two GPUs between them."""
    project.change("stages", "SPLITS = (1, 2)", "SPLITS = (1, 2, 3, 4, 5)")
    project.change("stages", "PROCESSES = {}", 'PROCESSES = {5: {"processes": 2}}')
    project.add("training/__init__", "training/distributed")
    diary = tmp_path / "diary"
    environment = {"TOY_DIARY": str(diary), "TOY_STEP": "0.5", "CUDA_VISIBLE_DEVICES": "2,3,6", "TMPDIR": str(tmp_path)}
    jobs = [f"train_{split}" for split in range(1, 6)]
    code, output = project.thesis("run", *jobs, "--jobs", "5", "--gpus", "3", **environment)
    assert code == 0, output
    rows = [line.split() for line in diary.read_text().splitlines()]
    assert sorted(split for split, *_ in rows) == ["1", "2", "3", "4", "5", "5"]
    seen = {split: (set(gpus.split(",")), float(begun), float(ended)) for split, _, gpus, begun, ended in rows}
    assert {split: len(own) for split, (own, *_) in seen.items()} == {"1": 1, "2": 1, "3": 1, "4": 1, "5": 2}
    assert set.union(*(own for own, *_ in seen.values())) == {"2", "3", "6"}
    pairs = [(a, b) for a in seen.values() for b in seen.values() if a is not b and a[1] < b[2] and b[1] < a[2]]
    assert pairs, "nothing ran beside another"
    assert all(not a[0] & b[0] for a, b in pairs), "two jobs on one GPU at the same time"


def test_a_job_that_could_never_start_is_refused_before_anything_does(project):
    project.change("stages", "PROCESSES = {}", 'PROCESSES = {2: {"processes": 4}}')
    code, output = project.thesis("run", "--gpus", "2")
    assert (code, output) == (2, "thesis: --gpus 2: train_2 is set to 4 processes, each with a GPU\n")
    code, output = project.thesis("run", "--gpus", "4", "--snakemake", "--executor slurm")
    assert code == 2 and "leave it out, the executor hands out its own" in output
    assert not (project.folder / "reports").exists()
