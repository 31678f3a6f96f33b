"""The small I3D on labelled clips written here: a moving bar in one of three colours."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib.data.video import write_video
from thesis_lib.training import i3d, loop

SIDE, LABELS = 16, ("blue", "green", "red")
SMALL = dict(num_steps=24, batch_size=12, lr=4e-3, warmup=4, stem_dim=4, frames=5)


def write_kinetics(root, num_clips=60, seed=0):
    """Clips of 21 frames, noise with a bar of one of three colours."""
    rng = np.random.default_rng(seed)
    (root / "videos").mkdir(parents=True)
    shown = np.arange(num_clips) % len(LABELS)
    for number, label in enumerate(shown):
        frames = rng.integers(60, 120, (i3d.WINDOW, SIDE, SIDE, 3)).astype(np.uint8)
        for time, frame in enumerate(frames):
            frame[:, (number + time + np.arange(6)) % SIDE, 2 - label] = 240
        write_video(root / f"videos/k{number:02d}.avi", frames, fps=8)
    with open(root / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("video_id", "label"), *((f"k{number:02d}", LABELS[label]) for number, label in enumerate(shown))]
        )
    return root


@pytest.fixture(scope="module")
def kinetics(tmp_path_factory):
    return write_kinetics(tmp_path_factory.mktemp("corpus") / "kinetics")


@pytest.fixture(scope="module")
def trained(kinetics, tmp_path_factory):
    folder = tmp_path_factory.mktemp("i3d")
    i3d.train(folder, kinetics=kinetics, **SMALL)
    return folder


def test_it_learns_and_names_clips_that_it_has_not_seen(trained, tmp_path):
    assert json.loads((trained / "config.json").read_text())["classes"] == list(LABELS)
    history = pd.read_csv(trained / "history.csv")
    assert len(history) == 1, "24 steps are less than one epoch of the log"
    assert history["accuracy"].iloc[-1] > 0.8, "of the six clips held out; chance is 1 in 3"

    new = write_kinetics(tmp_path / "new", num_clips=12, seed=7)
    clips = torch.stack([i3d.read_clip(new / f"videos/k{number:02d}.avi") for number in range(12)])
    with torch.no_grad():
        found = i3d.load(trained).logits(i3d.normalise(clips)).argmax(1)
    assert (found == torch.arange(12) % len(LABELS)).float().mean() > 0.8


def test_held_out_clips_are_never_trained_on(kinetics, tmp_path, monkeypatch):
    """Pixels carry the number of their clip; the last pixels that are normalised are those of the evaluation."""
    clips, real = [], i3d.normalise
    monkeypatch.setattr(i3d, "read_clip", lambda path, size: torch.full((21, 3, SIDE, SIDE), int(path.stem[1:])).byte())
    monkeypatch.setattr(i3d, "normalise", lambda part: clips.append(set(part[:, 0, 0, 0, 0].tolist())) or real(part))
    i3d.train(tmp_path, kinetics=kinetics, **SMALL | dict(num_steps=2, batch_size=60))
    *train, held_out = clips
    held = {9, 19, 29, 39, 49, 59}
    assert held_out == held
    assert len(train) == 2 and not held & set.union(*train) and len(set.union(*train)) > 40


def test_weights_come_back_as_they_were_saved(trained):
    model = i3d.load(trained)
    saved = torch.load(trained / "weights.pt", weights_only=True)
    assert not model.training and model.features_dim == 32 * SMALL["stem_dim"]
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_a_killed_run_goes_on_with_the_same_result(kinetics, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STEPS_PER_EPOCH", 2)
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    settings = SMALL | dict(num_steps=5)
    i3d.train(folders[0], kinetics=kinetics, **settings)
    real, calls = i3d.normalise, iter(range(100))

    def dying(clips):
        if next(calls) == 4:  # two batches and an evaluation an epoch: in the middle of the second
            raise KeyboardInterrupt
        return real(clips)

    monkeypatch.setattr(i3d, "normalise", dying)
    with pytest.raises(KeyboardInterrupt):
        i3d.train(folders[1], kinetics=kinetics, **settings)
    monkeypatch.setattr(i3d, "normalise", real)
    i3d.train(folders[1], kinetics=kinetics, **settings)
    whole, killed = (torch.load(folder / "weights.pt", weights_only=True) for folder in folders)
    assert all(torch.equal(value, killed[name]) for name, value in whole.items())
    assert pd.read_csv(folders[1] / "history.csv")["epoch"].tolist() == [1, 2, 3]


def test_pixels_are_brought_to_the_mean_and_deviation_of_the_extraction():
    clips = torch.randint(0, 256, (2, 4, 3, 6, 6), dtype=torch.uint8)
    out = i3d.normalise(clips)
    assert out.shape == (2, 3, 4, 6, 6)
    assert out[1, 2, 3, 0, 5].item() == pytest.approx((clips[1, 3, 2, 0, 5].item() / 255 - 0.45) / 0.225, abs=1e-5)


def test_it_is_trained_at_the_size_that_extraction_will_show(kinetics, tmp_path, monkeypatch):
    sizes, real = set(), i3d.normalise
    monkeypatch.setattr(i3d, "normalise", lambda part: sizes.add(part.shape[3:]) or real(part))
    i3d.train(tmp_path, kinetics=kinetics, **SMALL | dict(num_steps=1, batch_size=4), size=SIDE - 4)
    assert sizes == {(SIDE - 4, SIDE - 4)}
