"""A process that has imported everything, and jobs as forks of it: a start costs a tenth of a second, not four.

`thesis run` starts one for the jobs of this machine and names its socket in THESIS_WARM. A job sends what it was called
with, its surroundings and its three standard files; the fork becomes that job. It ends with the process that asked, and
the server with the run. Elsewhere, as under SLURM, a job is a process of its own. The server does no arithmetic, so that
there are no threads and no CUDA to fork.
"""

import json
import os
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

COMMAND = [sys.executable, "-m", "thesis_lib.cli"]
MOST = 2**20  # bytes of a call


@contextmanager
def server(threads: int) -> Iterator[None]:
    """THESIS_WARM for the processes of a run; jobs have so many threads each."""
    with TemporaryDirectory(prefix="thesis-") as folder:
        path = f"{folder}/socket"
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen([sys.executable, "-m", "thesis_lib.warm", path], env=environment, stdin=-1)
        os.environ["THESIS_WARM"] = path
        try:
            yield
        finally:
            del os.environ["THESIS_WARM"]
            process.kill()
            process.wait()


def run(command: list[str]) -> int | None:
    """The exit code of a command of `thesis`, run in a fork; None where there is no server, or it is another command."""
    path = os.environ.get("THESIS_WARM")
    if not path or command[:3] != COMMAND:
        return None
    with socket.socket(socket.AF_UNIX) as asked:
        try:
            asked.connect(path)
        except OSError:
            return None
        call = {"arguments": command[3:], "environment": dict(os.environ), "folder": os.getcwd()}
        socket.send_fds(asked, [json.dumps(call).encode() + b"\n"], [0, 1, 2])
        answer = asked.recv(1)
    return answer[0] if answer else 128 + signal.SIGKILL


class _Job(BaseRequestHandler):
    def handle(self) -> None:
        text, files, *_ = socket.recv_fds(self.request, MOST, 3)
        while not text.endswith(b"\n"):
            text += self.request.recv(MOST)
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        call = json.loads(text)
        os.environ.clear()
        os.environ.update(call["environment"])
        os.chdir(call["folder"])
        sys.stdout.reconfigure(line_buffering=True)
        threading.Thread(target=self._end_with_caller, daemon=True).start()

        from thesis_lib import cli

        code = 1
        try:
            code = cli.main(call["arguments"])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        sys.stdout.flush()
        sys.stderr.flush()
        self.request.sendall(bytes([code % 256]))

    def _end_with_caller(self) -> None:
        if not self.request.recv(1):
            os.kill(os.getpid(), signal.SIGTERM)


class _Server(ForkingMixIn, UnixStreamServer):
    max_children = 1000
    block_on_close = False
    request_queue_size = 1000  # those that come while modules are imported


def _end_with_run() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main(path: str) -> None:
    """Serve at a socket until standard input ends."""
    with _Server(path, _Job) as server:
        threading.Thread(target=_end_with_run, daemon=True).start()
        import thesis_lib
        from thesis_lib import cli  # noqa: F401  before others, since it says what jsonschema shall leave out

        for module in walk_packages(thesis_lib.__path__, "thesis_lib."):
            import_module(module.name)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main(sys.argv[1])
