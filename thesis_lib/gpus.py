"""A GPU of its own for every job of one machine: `python -m thesis_lib.gpus 2 COMMAND ...` waits until two are free.

`thesis run --gpus N` names N of them in THESIS_GPUS, and Snakemake starts no more jobs than they suffice for; this
module says which job gets which, in CUDA_VISIBLE_DEVICES. A GPU is taken by the lock of a file, which goes with the
process however it ends and holds against other runs of the same user. Without THESIS_GPUS, as under SLURM, which does
the same by itself, the command is only run: as a fork where `warm` has a server for it, else in place of this process.
"""

import fcntl
import os
import sys
import tempfile
import time
from pathlib import Path

from thesis_lib import warm

WAIT = 0.5  # seconds between two looks


def names(count: int) -> str:
    """THESIS_GPUS for a run: the first `count` of CUDA_VISIBLE_DEVICES where that is set, else of the machine.

    Raises ValueError where CUDA_VISIBLE_DEVICES names fewer.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    known = [str(number) for number in range(count)] if visible is None else [one for one in visible.split(",") if one]
    if count < 1 or len(known) < count:
        expected = "at least 1" if count < 1 else f"CUDA_VISIBLE_DEVICES={visible} has {len(known)}"
        raise ValueError(f"--gpus {count}: expected {expected}")
    return ",".join(known[:count])


def take(count: int, known: list[str]) -> list[str]:
    """`count` GPUs of `known`, held until this process and what it becomes ends; waits until so many are free."""
    folder = Path(tempfile.gettempdir()) / f"thesis-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    while True:
        with open(folder / "taking", "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)  # one at a time, or two jobs would each hold half of what both need
            free = {}
            for name in known:
                lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    free[name] = lock
                except BlockingIOError:
                    os.close(lock)
            kept = list(free)[:count] if len(free) >= count else []
            for name, lock in free.items():
                if name in kept:
                    os.set_inheritable(lock, True)
                else:
                    os.close(lock)
        if kept:
            return kept
        time.sleep(WAIT)


def main() -> None:
    count, command = int(sys.argv[1]), sys.argv[2:]
    known = [name for name in os.environ.get("THESIS_GPUS", "").split(",") if name]
    if known and count:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(take(count, known))
    code = warm.run(command)
    if code is not None:
        sys.exit(code)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
