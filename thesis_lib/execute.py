"""Execute one notebook or one stage: parameters checked first, progress line by line, a failure in one block.

A notebook that runs through becomes reports/<profile>/notebooks/NN_name.ipynb; one that fails leaves what it had in
NN_name.failed.ipynb. Lines go to the console and to reports/<profile>/logs/NN_name.log.
"""

import fcntl
import io
import os
import re
import shlex
import sys
import time
import traceback
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from thesis_lib import params, paths

sys.modules.setdefault("rfc3987_syntax", None)  # jsonschema does without: it parses a grammar for seconds


def run_notebook(notebook: str, profile: str, overrides: dict | None = None) -> bool:
    """Execute a notebook with its parameters in a profile; True if it ran through.

    Raises ValueError for a mistake in the parameters before a kernel starts.
    """
    record = params.load(notebook, profile, overrides)
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    done, running, failed = (target(notebook, profile, state) for state in ("", ".running", ".failed"))
    done.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with _lines(notebook, profile) as lines, TemporaryDirectory(prefix="thesis-") as sockets:
        try:
            papermill.execute_notebook(
                paths.NOTEBOOKS / f"{notebook}.ipynb",
                running,
                parameters=vars(record),
                progress_bar=False,
                cwd=paths.NOTEBOOKS,  # where JupyterLab starts its kernels too
                start_timeout=120,
                stdout_file=lines,
                stderr_file=lines.log,
                shutdown_kernel="immediate",  # a graceful one can take seconds and print an interrupt
                # Kernels that start at once race for TCP ports, and for sockets in one folder too.
                config=Config(
                    {
                        "KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"},
                        "NotebookClient": {"kernel_manager_class": "thesis_lib.kernels.Manager"},
                    }
                ),
            )
        except (PapermillExecutionError, RuntimeError) as error:  # of nbclient: the kernel died
            running.replace(failed)
            done.unlink(missing_ok=True)
            section, message = _failure(failed, error)
            again = ["thesis", "notebook", notebook.split("_")[0], "--profile", profile]
            for name, value in (overrides or {}).items():
                again += ["-p", name, str(value)]
            where = f"partial notebook: {paths.short(failed)}"
            lines.end(_block(f"FAILED in section '{section}'", message, where, again))
            return False
        running.replace(done)
        for old in (failed, target(notebook, profile, ".stale")):
            old.unlink(missing_ok=True)
        lines.end(f"done  {time.perf_counter() - start:.1f} s")
    return True


def run_stage(name: str, profile: str, arguments: dict) -> bool:
    """Compute a stage: a job of the graph by its name, or a stage with arguments; True if it ran through.

    If a job of the graph fails, its notebook cannot start: a notebook that says so stands in its place. Of several
    processes that torchrun started, the first one speaks for all; each has a log of its own.
    """
    from thesis_lib import graph, stages

    job = graph.jobs(profile).get(name, {}) if not arguments else {}
    start = time.perf_counter()
    with _processes() as number, _lines(name, profile, number) as lines, redirect_stdout(lines):
        try:
            result = stages.run_stage(job.get("stage", name), profile, **(arguments or job.get("arguments", {})))
        except Exception as error:
            traceback.print_exc(file=lines.log)
            message = _last_line(type(error).__name__, str(error))
            again = ["thesis", "stage", name, "--profile", profile]
            again += [f"{key}={value}" for key, value in arguments.items()]
            lines.console = sys.__stdout__
            lines.end(_block("FAILED", message, f"log: {paths.short(lines.log.name)}", again))
            if "notebook" in job and number == 0:
                _mark_failed(job["notebook"], profile, name, message)
            if "RANK" in os.environ:  # the others may wait for this process: torchrun ends them when it is gone
                os._exit(1)
            return False
        for kept in [result] if isinstance(result, Path) else result:
            lines.log.write(f"{name}  kept in {paths.short(kept)}\n")  # where `thesis status` looks for the accuracy
        lines.end(f"done  {time.perf_counter() - start:.1f} s")
    return True


def target(notebook: str, profile: str, state: str = "") -> Path:
    """Where a notebook is executed to; state: "" when done, ".running", ".failed", ".stale"."""
    return paths.report(profile) / "notebooks" / f"{notebook}{state}.ipynb"


class _Lines:
    """Text in, whole lines out, each with its label: to the console and to a log file."""

    def __init__(self, label: str, log):
        self.label, self.log, self.rest, self.console = label, log, "", sys.stdout

    def write(self, text: str) -> int:
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            for out in (self.console, self.log):
                out.write(f"{self.label}  {line.rpartition(chr(13))[2]}\n")  # of a line drawn over, the last state
                out.flush()
        return len(text)

    def end(self, text: str) -> None:
        """The last words, on a line of their own."""
        self.write(("\n" if self.rest else "") + text + "\n")

    def flush(self) -> None:
        self.console.flush()


@contextmanager
def _lines(label: str, profile: str, number: int = 0):
    folder = paths.report(profile) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{label}{f'.{number}' * bool(number)}.log", "w", encoding="utf-8") as log:
        with suppress(OSError):  # a lock goes with its process: by it `thesis status` knows who is alive
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        lines = _Lines(label, log)
        if number:
            lines.console = io.StringIO()
        yield lines


@contextmanager
def _processes():
    """Joins the processes that torchrun started, where it did; gives the number of this one."""
    if "RANK" not in os.environ:
        yield 0
        return
    from thesis_lib.training import distributed

    with distributed.processes():
        yield distributed.rank()


def _failure(notebook: Path, error: Exception) -> tuple[str, str]:
    """The last heading before the cell that failed, and the last line of its error."""
    import nbformat

    section = "the beginning"
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "markdown" and (headings := re.findall(r"^#+ +(.+)", cell.source, re.MULTILINE)):
            section = headings[-1].strip()
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                return section, _last_line(output.ename, output.evalue)
        if cell.metadata.get("papermill", {}).get("status") in ("running", "failed"):
            break
    return section, f"{_last_line(type(error).__name__, str(error))} (out of memory?)"


def _last_line(name: str, text: str) -> str:
    return f"{name}: {text.strip().splitlines()[-1] if text.strip() else ''}"


def _block(what: str, message: str, where: str, again: list[str]) -> str:
    return f"{what}\n    {message}\n    {where}\n    go on with: {shlex.join(again)}"


def _mark_failed(notebook: str, profile: str, job: str, message: str) -> None:
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

    name, _, text = message.partition(": ")
    document = nbformat.read(paths.NOTEBOOKS / f"{notebook}.ipynb", as_version=4)
    error = new_output("error", ename=name, evalue=text, traceback=[message])
    cells = [
        new_markdown_cell(f"## Before the first cell: {job}"),
        new_code_cell(f"# thesis stage {job}", outputs=[error]),
    ]
    document.cells = document.cells[:1] + cells + document.cells[1:]
    document.metadata["papermill"] = {"exception": True}
    failed = target(notebook, profile, ".failed")
    failed.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(document, failed)
    target(notebook, profile).unlink(missing_ok=True)
