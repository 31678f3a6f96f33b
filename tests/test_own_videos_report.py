"""The example of the README: three videos of one's own, imported, through the notebooks that labelled videos feed."""

import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest

from thesis_lib import paths
from thesis_lib.data import video

FPS = 12
TINY = {
    "01_data_audit": dict(scale=0.02, narrated=2, clips=26),
    "02_feature_extraction": dict(
        window=5,
        i3d_size=32,
        i3d_train_frames=5,
        i3d_steps=2,
        i3d_warmup=1,
        s3d_steps=1,
        s3d_warmup=1,
        s3d_batch_size=2,
    ),
    "03_cropping_experiment": dict(num_epochs=1, num_layers=2, num_decoders=1, num_f_maps=8),
    "04_baseline": dict(num_epochs=1, num_layers=2, num_decoders=1, num_f_maps=8),
}
CLASSES = {"press flowers": (230, 60, 60), "fold paper": (60, 200, 60), "seal letter": (60, 60, 230)}


def draw(rng, seconds):
    """(frames [48, 80, 3], label rows) of a video: a square of the colour of what is done moves over a grey table."""
    frames, rows, start = [], [], 0.0
    for label, share in zip(rng.permutation(list(CLASSES)), rng.dirichlet([5] * 3), strict=True):
        count = max(4, round(share * seconds * FPS))
        for step in range(count):
            frame = np.full((48, 80, 3), 128, np.uint8)
            left = (5 * step) % 60
            frame[14:34, left : left + 20] = CLASSES[label]
            frames.append(frame)
        rows.append(f"{start:.3f},{start + count / FPS:.3f},{label}")
        start += count / FPS
    return frames, rows


@pytest.fixture(scope="module")
def thesis(tmp_path_factory):
    """A function that runs `thesis` with places of its own, in a folder with films/ and labels.csv."""
    folder, rng = tmp_path_factory.mktemp("example"), np.random.default_rng(0)
    (folder / "films").mkdir()
    table = ["video,start,end,label"]
    for name, suffix in (("monday", "mp4"), ("tuesday", "avi"), ("friday", "mp4")):
        frames, rows = draw(rng, 5)
        video.write_video(folder / f"films/{name}.{suffix}", frames, FPS, "MJPG" if suffix == "avi" else "mp4v")
        table += [f"{name},{row}" for row in rows]
    (folder / "labels.csv").write_text("\n".join(table))
    shutil.copytree(paths.PARAMS / "smoke", folder / "params" / "smoke")
    for notebook, values in TINY.items():
        file = folder / "params" / "smoke" / f"{notebook}.yaml"
        text = file.read_text()
        for name, value in values.items():
            text = re.sub(rf"^{name}:.*$", f"{name}: {value}", text, flags=re.MULTILINE)
        file.write_text(text)
    places = {f"THESIS_{name.upper()}": str(folder / name) for name in ("params", "runs", "reports")}
    environment = os.environ | places | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}

    def run(*arguments):
        command = [sys.executable, "-m", "thesis_lib.cli", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    run.folder = folder
    return run


def test_three_videos_of_ones_own(thesis):
    arguments = ["--videos", "films", "--labels", "labels.csv", "--out", "letters", "--profile-from", "smoke"]
    told = thesis("import-videos", *arguments)
    assert "3 videos" in told and "3 classes, 3 splits" in told and "thesis run --profile letters" in told
    assert "Usable (0 odd" in thesis("check-data", "--root", "letters")
    for number in ("01", "02", "03", "04"):
        thesis("notebook", number, "--profile", "letters")
    report = thesis.folder / "reports" / "letters"
    rows = json.loads((report / "results/04_baseline.json").read_text())["rows"]
    accuracy = {row["split"]: row["value"] for row in rows if row["metric"] == "accuracy" and "ASF" in row["method"]}
    assert sorted(accuracy) == [1, 2, 3]
    for name in ("01_data_audit", "02_feature_extraction", "03_cropping_experiment", "04_baseline"):
        text = json.dumps(nbformat.read(report / f"notebooks/{name}.ipynb", 4))
        assert "fold paper" in text or name[:2] == "03"
