"""Cached stages: found again by inputs and code, resumed after a kill, computed once by two processes."""

import importlib
import os
import signal
import subprocess
import sys
import time

import pytest

from thesis_lib import paths, runs

STEPS = '''
"""Stages of a toy project."""
import time
from toy import scale

def count(folder, *, number, upstream=None):
    from toy.late import bonus
    log = folder / "log.txt"
    done = len(log.read_text()) if log.exists() else 0
    for step in range(done, number):
        with open(log, "a") as file:
            file.write("x")
        time.sleep(STEP)
        if step == FAIL_AT:
            raise RuntimeError("step failed")
    (folder / "result.txt").write_text(str(scale.FACTOR * number + bonus))

STEP, FAIL_AT = 0, None
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A package `toy` whose stage imports one module at the top and one inside the function."""
    monkeypatch.setattr(paths, "RUNS", tmp_path / "runs")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "toy").mkdir()
    for name, text in {"__init__": "", "steps": STEPS, "scale": "FACTOR = 2", "late": "bonus = 1", "other": ""}.items():
        (tmp_path / "toy" / f"{name}.py").write_text(text)
    yield importlib.import_module("toy.steps")
    for name in [name for name in sys.modules if name.partition(".")[0] == "toy"]:
        del sys.modules[name]


def test_the_same_inputs_are_found_again_in_silence(toy, capsys):
    folder = runs.cached(toy.count, profile="mini", number=3)
    assert (folder / "result.txt").read_text() == "7"
    assert (
        folder.parent == paths.RUNS / "mini" / "steps.count" and '"number": 3' in (folder / "inputs.json").read_text()
    )
    started, done = capsys.readouterr().out.splitlines()
    assert "starts" in started and done.endswith(" s")
    assert runs.cached(toy.count, profile="mini", number=3) == folder
    assert capsys.readouterr().out == ""
    assert runs.cached(toy.count, profile="mini", number=4) != folder


def test_a_path_counts_by_the_stage_that_made_it(toy, tmp_path):
    one, two = (runs.cached(toy.count, profile="mini", number=number) for number in (1, 2))
    keys = {
        runs.cached(toy.count, profile="mini", number=3, upstream=path).name for path in (one, two, one, [one, two])
    }
    assert len(keys) == 3
    elsewhere = runs.cached(toy.count, profile="smoke", number=1)
    assert runs.cached(toy.count, profile="smoke", number=3, upstream=elsewhere).name in keys, "profiles share keys"


def test_an_outside_file_counts_by_its_size_and_time(toy, tmp_path):
    file = tmp_path / "data.txt"
    file.write_text("1")
    before = runs.cached(toy.count, profile="mini", number=1, upstream=file)
    file.write_text("12")
    runs._outside.cache_clear()
    assert runs.cached(toy.count, profile="mini", number=1, upstream=file) != before
    with pytest.raises(FileNotFoundError, match="absent"):
        runs.cached(toy.count, profile="mini", number=1, upstream=tmp_path / "absent")


@pytest.mark.parametrize(
    "file, text, changes",
    [
        ("steps", STEPS + "# a comment", False),
        ("steps", STEPS.replace("Stages of a toy project", "Reworded"), False),
        ("steps", STEPS.replace("range(done", "range(0 * done"), True),
        ("scale", "FACTOR = 3", True),
        ("late", "bonus = 2", True),
        ("__init__", "import os", True),
        ("other", "unused = 1", False),
        ("late", "from . import other\nbonus = 1", True),
    ],
)
def test_code_counts_and_only_code_that_is_used(toy, tmp_path, file, text, changes):
    before = runs.fingerprint("toy.steps")
    (tmp_path / "toy" / f"{file}.py").write_text(text)
    runs._read.cache_clear()
    assert (runs.fingerprint("toy.steps") != before) == changes


def test_indirect_imports_count(toy, tmp_path):
    (tmp_path / "toy" / "scale.py").write_text("import toy.deep\nFACTOR = 2")
    (tmp_path / "toy" / "deep.py").write_text("a = 1")
    before = runs.fingerprint("toy.steps")
    (tmp_path / "toy" / "deep.py").write_text("a = 22")
    runs._read.cache_clear()
    assert runs.fingerprint("toy.steps") != before


def test_an_error_keeps_what_was_done_and_the_next_run_goes_on(toy, capsys, monkeypatch):
    monkeypatch.setattr(toy, "FAIL_AT", 1)
    with pytest.raises(RuntimeError, match="step failed"):
        runs.cached(toy.count, profile="mini", number=4)
    assert "stopped (RuntimeError); the next run goes on from" in capsys.readouterr().out
    monkeypatch.setattr(toy, "FAIL_AT", None)
    folder = runs.cached(toy.count, profile="mini", number=4)
    assert "goes on" in capsys.readouterr().out
    assert (folder / "log.txt").read_text() == "xxxx", "two steps before the error, two after"
    assert not list(folder.parent.glob("*.partial"))


def test_a_full_disk_is_named(toy, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs, "atomic_save", full)
    with pytest.raises(OSError):
        runs.cached(toy.count, profile="mini", number=1)
    assert "stopped (the disk is full)" in capsys.readouterr().out


def start(tmp_path, step):
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom thesis_lib import runs\nfrom toy import steps\n"
        f"steps.STEP = {step}\nprint(runs.cached(steps.count, profile='mini', number=8))"
    )
    environment = os.environ | {"THESIS_RUNS": str(tmp_path / "runs")}
    return subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)


def test_two_processes_compute_it_once(toy, tmp_path):
    outputs = [process.communicate()[0] for process in [start(tmp_path, 0.2), start(tmp_path, 0.2)]]
    assert len({output.splitlines()[-1] for output in outputs}) == 1, "one folder"
    assert sum(" starts" in output for output in outputs) == 1
    assert sum("another process computes it" in output for output in outputs) == 1


SHARED = """
import os, time

def fill(folder, *, number):
    (folder / f"here.{os.getpid()}").touch()
    while len(list(folder.glob("here.*"))) < number:
        time.sleep(0.01)
    if os.environ.get("SLOW"):
        time.sleep(1)
    (folder / f"last.{os.getpid()}").touch()
"""


def test_processes_that_share_a_result_work_in_it_together_and_finish_it_once(toy, tmp_path):
    """None moves the folder away while another is still at work in it."""
    (tmp_path / "toy" / "shared.py").write_text(SHARED)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\nfrom thesis_lib import runs\nfrom toy import shared\n"
        "print(runs.cached(shared.fill, profile='mini', shared=True, number=3))"
    )
    environment = os.environ | {"THESIS_RUNS": str(tmp_path / "runs")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment | {"SLOW": slow}, stdout=subprocess.PIPE, text=True
        )
        for slow in ("", "1", "")
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert all(process.returncode == 0 for process in started)
    folders = {output.splitlines()[-1] for output in outputs}
    assert len(folders) == 1 and sum("joins another process" in output for output in outputs) == 2
    (folder,) = tmp_path.glob("runs/mini/shared.fill/*/")
    assert {str(folder)} == folders and len(list(folder.glob("last.*"))) == 3 and (folder / "inputs.json").is_file()


def test_a_killed_process_leaves_no_lock_and_no_lost_work(toy, tmp_path):
    process = start(tmp_path, 0.2)
    for _ in range(200):
        if any(len(log.read_text()) >= 2 for log in tmp_path.glob("runs/mini/steps.count/*.partial/log.txt")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    output = start(tmp_path, 0).communicate()[0]
    assert "goes on" in output
    assert [log.read_text() for log in tmp_path.glob("runs/mini/steps.count/*/log.txt")] == ["x" * 8]


def test_inputs_must_be_plain(toy):
    with pytest.raises(ValueError, match="steps.count: input .*expected a JSON-able value or a Path, got set"):
        runs.cached(toy.count, profile="mini", number={1})
    with pytest.raises(ValueError, match="must live in a module file"):
        runs.fingerprint("nowhere")


def test_atomic_save_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "checkpoint.pt"
    runs.atomic_save(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        runs.atomic_save(path, fail)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
