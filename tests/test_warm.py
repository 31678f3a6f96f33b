"""Forks of a process that has imported everything are the processes that were asked for."""

import os
import subprocess
import sys
import time

import psutil
import pytest

from thesis_lib import paths, warm

ASK = "import sys\nfrom thesis_lib import warm\nwith warm.server(1):\n    {}"


def asking(project, text, **environment):
    """A process of the toy project that has a server."""
    return subprocess.Popen(
        [sys.executable, "-c", ASK.format(text)],
        cwd=project.folder,
        env=os.environ | {"PYTHONPATH": str(project.folder)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(*arguments):
    return f"code = warm.run([sys.executable, '-m', 'thesis_lib.cli', *{arguments!r}])\n    print('code', code)"


def write_cli(project, text):
    (project.folder / "thesis_lib" / "cli.py").write_text(f"if __name__ == '__main__':\n    {text}\n")


@pytest.mark.parametrize("arguments, code", [(("params", "04"), 0), (("params", "99"), 2), (("parms",), 2)])
def test_a_fork_says_and_ends_as_a_process_of_its_own_does(project, arguments, code):
    alone = subprocess.run(
        [sys.executable, "-m", "thesis_lib.cli", *arguments],
        cwd=project.folder,
        env=os.environ | {"PYTHONPATH": str(project.folder)},
        capture_output=True,
        text=True,
    )
    process = asking(project, command(*arguments))
    said, errors = process.communicate(timeout=60)
    assert (alone.returncode, said, errors) == (code, f"{alone.stdout}code {code}\n", alone.stderr)


def test_code_that_was_edited_is_read_again(project):
    """Keys of results hash the code as it is: they must not be given to what older code computes."""
    edit = "open('thesis_lib/toy.py', 'a').write('# edited'); " + command("params", "04")
    assert asking(project, edit).communicate(timeout=60)[0] == "code None\n"


def test_a_fork_has_the_surroundings_of_the_one_that_asked(project):
    write_cli(project, "import os; print(os.path.basename(os.getcwd()), os.environ['ASKED'])")
    change = "import os; os.environ['ASKED'] = 'yes'; os.chdir('notebooks'); " + command()
    assert asking(project, change).communicate(timeout=60)[0] == "notebooks yes\ncode 0\n"


def test_a_fork_ends_with_the_one_that_asked_and_the_server_too(project):
    write_cli(project, "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)")
    process = asking(project, command())
    file, end = project.folder / "pid", time.time() + 60
    while not (file.exists() and file.read_text()) and time.time() < end:
        time.sleep(0.05)
    everyone = psutil.Process(process.pid).children(recursive=True)
    assert int(file.read_text()) in [one.pid for one in everyone] and len(everyone) == 2
    process.kill()
    process.communicate()
    assert psutil.wait_procs(everyone, timeout=20)[1] == []


KERNEL = """
    from thesis_lib.kernels import Manager
    import asyncio, os, psutil
    async def ask():
        manager = Manager(kernel_name="python3")
        await manager.start_kernel(extra_arguments=["--log-level=ERROR"])
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        print(*(one.pid for one in psutil.Process().children(recursive=True)), flush=True)
        if os.environ.get("DIES"):
            os._exit(0)
        await manager.shutdown_kernel()
    asyncio.run(ask())
"""


def test_a_kernel_is_a_fork_and_prints_nothing_of_its_own(project):
    process = asking(project, KERNEL.strip())
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0 and errors == ""
    assert len(said.split()) == 3, "a server, a fork of it, and who waits for the fork"


def test_a_kernel_ends_with_the_one_that_asked(project):
    process = asking(project, KERNEL.strip(), DIES="1")
    everyone = [int(word) for word in process.stdout.readline().split()]
    assert len(everyone) == 3
    end = time.time() + 20
    while any(map(psutil.pid_exists, everyone)) and time.time() < end:
        time.sleep(0.1)
    assert not [pid for pid in everyone if psutil.pid_exists(pid)]
    process.communicate()


def test_a_server_that_cannot_begin_takes_nothing(project):
    (project.folder / "thesis_lib" / "toy.py").write_text("no python")
    assert asking(project, command("params", "04")).communicate(timeout=60)[0] == "code None\n"


def test_a_fork_that_is_killed_counts_as_killed(project):
    write_cli(project, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert asking(project, command()).communicate(timeout=60)[0] == "code 137\n"


def test_other_commands_and_no_server_are_left_to_the_caller(monkeypatch, tmp_path):
    monkeypatch.delenv("THESIS_WARM", raising=False)
    assert warm.run([sys.executable, "-m", "thesis_lib.cli"]) is None
    monkeypatch.setenv("THESIS_WARM", str(tmp_path / "gone"))
    assert warm.run([sys.executable, "-m", "thesis_lib.cli"]) is None
    for command in (["true"], [sys.executable, "-m", "torch.distributed.run"]):
        assert warm.run(command) is None


def test_nothing_that_is_imported_touches_cuda():
    """CUDA cannot be forked once a process has asked for it."""
    text = """
import torch
def touched(*_):
    raise SystemExit("touched")
for name in ("is_available", "device_count", "_lazy_init", "current_device"):
    setattr(torch.cuda, name, touched)
import thesis_lib
from importlib import import_module
from pkgutil import walk_packages
from thesis_lib import warm
names = [one.name for one in walk_packages(thesis_lib.__path__, "thesis_lib.")]
for name in [*warm.BESIDES, *names]:
    import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", text], cwd=paths.ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stdout) > 90, done.stderr
