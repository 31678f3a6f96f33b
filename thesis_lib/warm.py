"""A process that has imported everything, and jobs as forks of it: a start costs less than a second, not four or five.

`thesis run` starts one for the jobs of this machine and the kernels of their notebooks, and names its socket in
THESIS_WARM. Who wants a process sends the command, its surroundings and its three standard files; the fork becomes that
process. It ends with the one that asked or its parent, and the server with the run. Elsewhere, as under SLURM, commands
run as they are. The server does no arithmetic, so that there are no threads and no CUDA to fork.
"""

import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from socketserver import BaseRequestHandler, ForkingMixIn, UnixStreamServer
from tempfile import TemporaryDirectory

MODULES = "thesis_lib.cli", "ipykernel_launcher"  # what is run in forks
BESIDES = "papermill", "ipykernel.kernelapp", "torch._dynamo"  # what they import besides our own modules
MOST = 2**20  # bytes of a call
MOST_CALLS = 1000  # at once
WAIT = 1.0  # seconds between two looks whether who asked is still there
TAKEN = b"+"  # the first byte of an answer; the second is the exit code


@contextmanager
def server(threads: int) -> Iterator[None]:
    """THESIS_WARM for the processes of a run; jobs have so many threads each."""
    with TemporaryDirectory(prefix="thesis-") as folder:
        path = f"{folder}/socket"
        with socket.socket(socket.AF_UNIX) as listening:  # at once: calls wait while modules are imported
            listening.bind(path)
            listening.listen(MOST_CALLS)
            process = subprocess.Popen(
                [sys.executable, "-m", "thesis_lib.warm", str(listening.fileno())],
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                stdin=subprocess.PIPE,
                pass_fds=[listening.fileno()],
            )
        os.environ["THESIS_WARM"] = path
        try:
            yield
        finally:
            del os.environ["THESIS_WARM"]
            process.kill()
            process.wait()


def run(command: list[str]) -> int | None:
    """The exit code of `python -m MODULE ...` run in a fork.

    None without a server that takes it, for another kind of command, or where code was edited since the server began.
    """
    path = os.environ.get("THESIS_WARM")
    if not path or command[:2] != [sys.executable, "-m"] or command[2] not in MODULES or _edited_since(path):
        return None
    parent = os.getppid()
    with socket.socket(socket.AF_UNIX) as asked:
        call = {"command": command[2:], "environment": dict(os.environ), "folder": os.getcwd()}
        try:
            asked.connect(path)
            socket.send_fds(asked, [json.dumps(call).encode() + b"\n"], [0, 1, 2])
            if _heard(asked, parent) != TAKEN:
                return None
        except OSError:
            return None
        try:
            answer = _heard(asked, parent)
        except (KeyboardInterrupt, OSError) as error:
            return 128 + (signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGKILL)
    return answer[0] if answer else 128 + signal.SIGKILL


def _heard(asked: socket.socket, parent: int) -> bytes:
    """The next byte. Where `parent` is gone nobody waits for it: this process ends, and with it the fork."""
    while not select.select([asked], [], [], WAIT)[0]:
        if os.getppid() != parent:
            sys.exit(128 + signal.SIGTERM)
    return asked.recv(1)


def _edited_since(path: str) -> bool:
    sources = Path(__file__).parent.rglob("*.py")
    return not os.path.exists(path) or max(file.stat().st_mtime for file in sources) >= os.stat(path).st_mtime


class _Job(BaseRequestHandler):
    def handle(self) -> None:
        self.server.socket.close()  # or calls would wait for a server that is gone
        text, files, *_ = socket.recv_fds(self.request, MOST, 3)
        while not text.endswith(b"\n"):
            text += self.request.recv(MOST)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        call = json.loads(text)
        self.request.sendall(TAKEN)
        os.environ.clear()
        os.environ.update(call["environment"])
        os.chdir(call["folder"])
        sys.stdout.reconfigure(line_buffering=True)
        threading.Thread(target=self._end_with_caller, daemon=True).start()

        module, *_ = sys.argv = call["command"]
        sys.modules.pop(module, None)  # it becomes __main__
        code = 0
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        self.request.sendall(bytes([code % 256]))

    def _end_with_caller(self) -> None:
        if not self.request.recv(1):
            os.kill(os.getpid(), signal.SIGTERM)


class _Server(ForkingMixIn, UnixStreamServer):
    max_children = MOST_CALLS
    block_on_close = False

    def __init__(self, listening: socket.socket):
        super().__init__(listening.getsockname(), _Job, bind_and_activate=False)
        self.socket.close()
        self.socket = listening


def _end_with_run() -> None:
    os.read(0, 1)
    os._exit(0)


def main(listening: socket.socket) -> None:
    """Answer those who connect until standard input ends."""
    with _Server(listening) as server:
        threading.Thread(target=_end_with_run, daemon=True).start()
        import thesis_lib

        ours = [module.name for module in walk_packages(thesis_lib.__path__, "thesis_lib.")]
        for name in ("thesis_lib.execute", *BESIDES, *ours):  # the first says what jsonschema shall leave out
            import_module(name)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
