"""How long a job takes that finds its work done: as a process of its own, and as a fork (`thesis_lib.warm`).

python -m benchmarks.start            # --repeats 5
"""

import argparse
import os
import subprocess
import sys
from functools import partial
from statistics import median

from benchmarks.measure import alternate, ratio
from thesis_lib import warm

JOB = [sys.executable, "-m", "thesis_lib.cli", "stage", "corpus", "--profile", "smoke"]
LINE = [sys.executable, "-m", "thesis_lib.gpus", "0", *JOB]  # as in the Snakefile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    alone = dict(os.environ)
    with warm.server(threads=1):
        environments = {"process": alone, "fork": dict(os.environ)}
        run = partial(subprocess.run, LINE, check=True, stdout=subprocess.DEVNULL)
        seconds = alternate({name: partial(run, env=one) for name, one in environments.items()}, repeats)
    print(*(f"{name}: {median(times):.2f} s" for name, times in seconds.items()), sep="\n")
    print(f"{ratio(seconds, 'process', 'fork'):.1f} times faster (median of {repeats} turns)")


if __name__ == "__main__":
    main()
