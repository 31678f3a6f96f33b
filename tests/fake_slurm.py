"""SLURM as far as Snakemake's plugin looks at it: a script under the names of its commands (sbatch, srun, sacct, ...).

In the folder FAKE_SLURM: calls.jsonl has every call, <id>.state the state of a job. sbatch starts the job at once, in
the background, with GPUs of its own in CUDA_VISIBLE_DEVICES. A job of the rule in FAKE_SLURM_LOSES is lost once, as by
a node that goes down: killed as soon as the file of the pattern in FAKE_SLURM_WHEN is there.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.environ.get("FAKE_SLURM", "."))


def sbatch(arguments: list[str]) -> None:
    number = len(list(HERE.glob("*.state"))) + 1
    say(number, "RUNNING")
    (wrapped,) = [argument.removeprefix("--wrap=") for argument in arguments if argument.startswith("--wrap=")]
    gpus = next((int(text.partition("=")[2]) for text in arguments if text.startswith("--gpus=")), 0)
    rule = arguments[arguments.index("--comment") + 1]
    environment = os.environ | {"SLURM_JOB_ID": str(number), "SLURM_GPUS": str(gpus)}
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(f"{number}{gpu}" for gpu in range(gpus))
    folder = arguments[arguments.index("-D") + 1]
    log = arguments[arguments.index("--output") + 1].replace("%j", str(number))
    command = [sys.executable, __file__, "job", str(number), rule, wrapped]
    with open(log, "w") as out:
        subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    print(number)


def job(arguments: list[str]) -> None:
    number, rule, wrapped = arguments
    lost = HERE / "lost"
    process = subprocess.Popen(wrapped, shell=True, start_new_session=True)
    if rule == os.environ.get("FAKE_SLURM_LOSES") and not lost.exists():
        lost.touch()
        while process.poll() is None and not list(Path("/").glob(os.environ["FAKE_SLURM_WHEN"].lstrip("/"))):
            time.sleep(0.05)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        state = "NODE_FAIL"
    else:
        state = "FAILED" if process.wait() else "COMPLETED"
    say(number, state)


def say(number: int | str, state: str) -> None:
    """The state of a job, as a whole: sacct reads at any time."""
    (HERE / f"{number}.new").write_text(state)
    (HERE / f"{number}.new").rename(HERE / f"{number}.state")


def main() -> None:
    name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    if arguments[:1] == ["job"]:
        return job(arguments[1:])
    with open(HERE / "calls.jsonl", "a") as calls:
        calls.write(json.dumps([name, *arguments]) + "\n")
    if name == "sbatch":
        sbatch(arguments)
    elif name == "srun":
        words = iter(arguments)
        command = next(word for word in words if not re.match(r"-", word))
        os.execvp(command, [command, *words])
    elif name == "sacct" and not any("State" in argument for argument in arguments):
        print("node1")
    elif name == "sacct":
        for file in sorted(HERE.glob("*.state")):
            print(f"{file.stem}|{file.read_text()}")
    elif name == "sacctmgr":
        print("thesis")


if __name__ == "__main__":
    main()
