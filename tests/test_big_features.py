"""The benchmark of full-size features at a small size, and real labels with features of another width."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from benchmarks import big_features
from tests.data.test_salads import SHARED, real
from thesis_lib import paths, protocol
from thesis_lib.data import salads


@pytest.fixture
def labels(tmp_path):
    """Ten videos of 60 to 69 frames in five splits."""
    root = tmp_path / "labels"
    for folder in ("groundTruth", "splits"):
        (root / folder).mkdir(parents=True)
    (root / "mapping.txt").write_text("0 cut_tomato\n1 add_oil\n")
    names = [f"rgb-{user:02}-{take}" for user in (1, 2, 3, 4, 5) for take in (1, 2)]
    for number, name in enumerate(names):
        (root / f"groundTruth/{name}.txt").write_text("cut_tomato\n" * 30 + "add_oil\n" * (30 + number))
    for split in range(5):
        test = names[2 * split : 2 * split + 2]
        for part, chosen in (("train", [name for name in names if name not in test]), ("test", test)):
            bundle = root / f"splits/{part}.split{split + 1}.bundle"
            bundle.write_text("".join(f"{name}.txt\n" for name in chosen))
    return root


def test_the_data_set_and_what_its_steps_measure(labels, tmp_path):
    root = big_features.prepare(tmp_path / "work", labels, width=32, epoch_videos=4)
    video = salads.load_split(root, 6, "test")[0]
    assert video.features.shape == (32, 60) and len(salads.load_split(root, 6, "train")) == 4
    assert salads.read_features(root / "features/rgb-01-1.npy").shape == (32, 68)
    (seen,) = big_features.run(tmp_path / "work", root, ["epoch"]).values()
    (trained,) = (tmp_path / "work/runs/big").glob("asformer.train/*/history.csv")
    assert len(trained.read_text().splitlines()) == 2
    assert 50e6 < seen["own"] < seen["mapped"] < 4e9 and seen["seconds"] > 0 and seen["read"] >= 0


def test_memory_and_bytes_are_those_of_the_command(tmp_path):
    """A child that allocates 300 MB, beside a file of 20 MB that it maps."""
    (tmp_path / "a.npy").write_bytes(os.urandom(20_000_000))
    code = "b = bytearray(300_000_000); import mmap, time; f = open('{}', 'rb'); "
    code += "m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); s = sum(m[::4096]); time.sleep(0.5)"
    command = [sys.executable, "-c", code.format(tmp_path / "a.npy")]
    seen = big_features.measure(["sh", "-c", '"$@"; true', "sh", *command], {}, tmp_path)
    assert 300e6 < seen["own"] < 345e6 and seen["mapped"] - seen["own"] > 20e6
    with pytest.raises(RuntimeError, match="no such thing"):
        big_features.measure([sys.executable, "-c", "raise SystemExit('no such thing')"], {}, tmp_path)


def test_too_little_room_is_said_before_anything_is_drawn(labels, tmp_path):
    with pytest.raises(ValueError, match="GB are needed"):
        big_features.prepare(tmp_path / "work", labels, width=10**10, epoch_videos=4)


@real
def test_real_labels_with_features_of_another_width_by_parameters_alone(tmp_path):
    root = big_features.prepare(tmp_path, SHARED, width=512, epoch_videos=2, num_videos=1)
    profile = tmp_path / "params" / "big"
    tiny = dict(splits=[6], sample_rate=16, lr=0.001) | big_features.TINY
    tiny |= dict(channel_masking_rate=0.3, attention_window="centred", standardise=True)
    (profile / "04_baseline.yaml").write_text(yaml.safe_dump(tiny))
    places = {f"THESIS_{name.upper()}": str(tmp_path / name) for name in ("params", "runs", "reports")}
    environment = os.environ | places | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "thesis_lib.cli", "notebook", "04", "--profile", "big"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    rows = json.loads((tmp_path / "reports/big/results/04_baseline.json").read_text())["rows"]
    rows = [row for row in rows if row["metric"] == "accuracy" and row["protocol"] == protocol.FRAMES]
    (accuracy,) = [row["value"] for row in rows if row["weights"] == "scratch"]
    (video,) = salads.read_bundle(root / "splits/test.split6.bundle")
    frames = len(salads.read_labels(SHARED / f"groundTruth/{video}.txt"))
    assert (accuracy * frames) == pytest.approx(round(accuracy * frames), abs=1e-6), "every frame of the video counts"
