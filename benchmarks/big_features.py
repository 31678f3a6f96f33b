"""Memory, time and bytes read of the real labels with features of full size: check, audit, cropping, one epoch.

    python -m benchmarks.big_features --labels data/50salads           # draws 5 GB below --folder, deletes them after

Features are random, [width, frames + 8] float32 for each video of the labels; no number that a step reports means
anything. Steps are the commands that a user runs, each in a process of its own:

    check      thesis check-data
    audit      thesis notebook 01
    cropping   thesis notebook 03: where the labels fit best, and one training with a tiny ASFormer on all videos
    epoch      thesis stage baseline: one epoch of ASFormer as published, on --epoch-videos, tested on a quarter of them

Memory is the largest sum over a step's processes, seen every 50 ms: `own` of pages that are theirs (what a machine must
have), `mapped` of pages of files too, which the system takes back when it needs them. Bytes read are those fetched from
storage: the features are put out of the page cache before each step, and what memory maps read counts as well; what a
step reads again while it is still in the cache does not.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.measure import machine
from thesis_lib import paths
from thesis_lib.data import salads

SURPLUS = 8  # vectors more than labels, as the public videos have frames
TINY = dict(num_epochs=1, num_layers=2, num_decoders=1, num_f_maps=8, evaluate_every=1)
PUBLISHED = dict(num_epochs=1, num_layers=10, num_decoders=3, num_f_maps=64, evaluate_every=1)
STEPS = {
    "check": ["check-data", "--root", "{root}"],
    "audit": ["notebook", "01", "--profile", "big"],
    "cropping": ["notebook", "03", "--profile", "big"],
    "epoch": ["stage", "baseline", "split=6", "--profile", "big"],
}


def prepare(folder: Path, labels: Path, width: int, epoch_videos: int, num_videos: int = 0) -> Path:
    """A data set below folder, with the splits of the labels and a sixth of few videos, and a profile `big`; its root.

    num_videos: the first so many of each split's test videos, 0 for all.
    """
    root, rng = folder / "big", np.random.default_rng(0)
    (root / "splits").mkdir(parents=True)
    (root / "features").mkdir()
    (root / "groundTruth").mkdir()
    shutil.copy(labels / "mapping.txt", root)
    tests = [salads.read_bundle(labels / f"splits/test.split{number}.bundle") for number in salads.splits(labels)]
    tests = [test[: num_videos or None] for test in tests]
    every = sorted(name for test in tests for name in test)
    splits = [([name for name in every if name not in test], test) for test in tests]
    splits.append((splits[0][0][:epoch_videos], tests[0][: max(1, epoch_videos // 4)]))
    for number, parts in enumerate(splits, 1):
        for part, names in zip(salads.PARTS, parts, strict=True):
            (root / f"splits/{part}.split{number}.bundle").write_text("".join(f"{name}.txt\n" for name in names))
    lengths = {name: len(salads.read_labels(labels / f"groundTruth/{name}.txt")) for name in every}
    needed = 4 * width * sum(length + SURPLUS for length in lengths.values())
    if shutil.disk_usage(folder).free < 1.5 * needed:
        raise ValueError(
            f"{folder}: {needed / 1e9:.1f} GB are needed, and half of that free beside them: name --folder"
        )
    for name, length in lengths.items():
        shutil.copy(labels / f"groundTruth/{name}.txt", root / "groundTruth")
        np.save(root / f"features/{name}.npy", rng.random((width, length + SURPLUS), np.float32))
    write_profile(folder, root)
    return root


def write_profile(folder: Path, root: Path) -> None:
    """params/big below folder: the smoke profile with these data, the embedded corpus as small as can be."""
    profile = folder / "params" / "big"
    shutil.copytree(paths.PARAMS / "smoke", profile)
    changes = {
        "common": {"profile": "big"},
        "01_data_audit": {"real_labels": "''", "scale": 0.02, "narrated": 2, "clips": 26},
        "02_feature_extraction": {"i3d_features_root": root / "features"},
        "03_cropping_experiment": {"cuts": "[back]"} | TINY,
        "04_baseline": {"splits": "[6]"} | PUBLISHED,
    }
    for name, values in changes.items():
        text = (profile / f"{name}.yaml").read_text()
        for key, value in values.items():
            text, found = re.subn(rf"^{key}:.*$", f"{key}: {value}", text, flags=re.MULTILINE)
            assert found == 1, (name, key)
        (profile / f"{name}.yaml").write_text(text + (f"data_root: {root}\n" if name == "common" else ""))


def measure(command: list[str], environment: dict[str, str], cold: Path) -> dict[str, float]:
    """seconds, own and mapped (peak bytes), read (bytes) of a command and all that it starts; cold: see above."""
    for file in cold.glob("*.npy"):
        with open(file, "rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    before, start = psutil.Process().io_counters().read_bytes, time.perf_counter()
    peak = {"own": 0, "mapped": 0}
    with tempfile.TemporaryFile("w+") as said:
        process = psutil.Popen(command, env=os.environ | environment, stdout=said, stderr=said)
        while process.poll() is None:
            found = []
            for one in [process, *_children(process)]:
                try:
                    found.append(one.memory_info())
                except psutil.NoSuchProcess:
                    continue
            peak["mapped"] = max(peak["mapped"], sum(info.rss for info in found))
            peak["own"] = max(peak["own"], sum(info.rss - info.shared for info in found))
            time.sleep(0.05)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}\n{said.read()[-2000:]}")
    seconds = time.perf_counter() - start
    return peak | {"seconds": seconds, "read": psutil.Process().io_counters().read_bytes - before}


def _children(process: psutil.Popen) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def run(folder: Path, root: Path, steps: list[str]) -> dict[str, dict[str, float]]:
    """Every step's measures."""
    places = {f"THESIS_{name.upper()}": str(folder / name) for name in ("params", "runs", "reports")}
    environment = places | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    thesis = [sys.executable, "-m", "thesis_lib.cli"]
    if "audit" in steps:  # what it shows of narrated videos is drawn before: that is not the features' memory
        corpus = [*thesis, "stage", "corpus", "--profile", "big"]
        subprocess.run(corpus, env=os.environ | environment, check=True, capture_output=True)
    commands = {step: [*thesis, *(word.format(root=root) for word in STEPS[step])] for step in steps}
    return {step: measure(command, environment, root / "features") for step, command in commands.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--labels", type=Path, required=True, help="groundTruth, splits, mapping.txt of 50Salads")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--epoch-videos", type=int, default=40, help="training videos of the epoch")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the features go")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="thesis-big-", dir=args.folder) as folder:
        root = prepare(Path(folder), args.labels, args.width, args.epoch_videos)
        size = sum(file.stat().st_size for file in root.glob("features/*.npy"))
        print(f"{machine()}; {len(list(root.glob('features/*.npy')))} videos, features of {size / 1e9:.2f} GB\n")
        print("| step | seconds | memory, own (GB) | with mapped files (GB) | read (GB) |\n|---|---|---|---|---|")
        for step in args.steps:
            seen = run(Path(folder), root, [step])[step]
            sizes = " | ".join(f"{seen[name] / 1e9:.2f}" for name in ("own", "mapped", "read"))
            print(f"| {step} | {seen['seconds']:.0f} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
