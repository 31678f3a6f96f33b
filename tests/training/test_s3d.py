"""S3D on a narrated corpus written here: four actions told apart by their colours, and captions that name them."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import metrics
from thesis_lib.data.howto100m import read_captions
from thesis_lib.data.video import write_video
from thesis_lib.extraction import s3d_features
from thesis_lib.training import loop, s3d

FPS, SIDE, SECONDS = 8, 16, 3  # of an action
ACTIONS = {
    "cut tomato": (230, 20, 20),
    "peel cucumber": (20, 200, 20),
    "pour oil": (20, 20, 230),
    "grate cheese": (230, 230, 20),
}
TEXTS = list(ACTIONS)
SMALL = dict(num_steps=90, batch_size=32, candidates=1, lr=0.005, warmup=5, channels_div=16, embed_dim=512)
SMALL |= dict(frames=4, size=SIDE)


def film(action, rng):
    """Three seconds of a broad coloured bar that moves over grey noise."""
    phase = int(rng.integers(SIDE))
    for time in range(SECONDS * FPS):
        frame = rng.integers(80, 140, (SIDE, SIDE, 3)).astype(np.uint8)
        frame[(phase + time + np.arange(13)) % SIDE] = ACTIONS[TEXTS[action]]
        yield frame


def write_howto(root, num_videos=24, seed=0):
    """Videos of four actions in random order; a caption in the middle of each names it."""
    rng = np.random.default_rng(seed)
    (root / "videos").mkdir(parents=True)
    shown = [rng.permutation(len(ACTIONS)) for _ in range(num_videos)]
    captions = {}
    for number, actions in enumerate(shown):
        write_video(root / f"videos/v{number:02d}.avi", (f for action in actions for f in film(action, rng)), FPS)
        starts = (SECONDS * np.arange(4) + 1).tolist()
        texts = [TEXTS[action] for action in actions]
        captions[f"v{number:02d}"] = {"start": starts, "end": [start + 1 for start in starts], "text": texts}
    (root / "raw_caption.json").write_text(json.dumps(captions))


@pytest.fixture(scope="module")
def howto(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "howto100m"
    write_howto(root)
    return root


@pytest.fixture(scope="module")
def new_video(tmp_path_factory):
    """(path, class of each second): a video outside the corpus with every action twice."""
    rng, path = np.random.default_rng(9), tmp_path_factory.mktemp("new") / "new.avi"
    actions = np.concatenate([rng.permutation(len(ACTIONS)) for _ in range(2)])
    write_video(path, (frame for action in actions for frame in film(action, rng)), FPS)
    return path, np.repeat(actions, SECONDS)


def train(folder, howto, **changed):
    folder.mkdir()
    s3d.train(folder, howto=howto, **SMALL | changed)
    return folder


@pytest.fixture(scope="module")
def trained(howto, tmp_path_factory):
    return train(tmp_path_factory.mktemp("s3d") / "true", howto)


def zero_shot(folder, new_video):
    """Accuracy over single seconds: the vector of a second against those of the texts, nothing else."""
    path, targets = new_video
    model, words, size = s3d.load(folder)
    vectors = s3d_features(model, path, frames_per_clip=SMALL["frames"], size=size)
    with torch.no_grad():
        texts = model.encode_text(torch.from_numpy(words.encode(TEXTS))).numpy()
    return float(((vectors @ texts.T).argmax(1) == targets).mean())


def test_captions_alone_teach_what_a_second_shows(trained, new_video):
    _, targets = new_video
    constant = metrics.constant_class_accuracy([targets])
    assert constant == 1 / len(ACTIONS), "all actions equally often: no class is a better guess than another"
    assert zero_shot(trained, new_video) > 3 * constant
    loss = pd.read_csv(trained / "history.csv")["loss"]
    assert loss.iloc[-1] < loss[0] - 0.5 and loss[0] == pytest.approx(np.log(2 * SMALL["batch_size"]), abs=0.5)


def test_permuted_captions_teach_nothing(howto, new_video, tmp_path):
    """The control: the same texts at the same times, but none belongs to what is shown.

    All seconds of one action look alike and are named alike, so one network makes four guesses, right by chance with
    probability 1/4. Three make 12: their mean has a standard deviation of sqrt(1/4 * 3/4 / 12) = 0.125, and two of
    those are allowed above the constant class, to 0.5. With true captions the same network is above 0.75.
    """
    chance = 1 / len(ACTIONS)
    found = [
        zero_shot(train(tmp_path / str(seed), howto, captions="permuted", seed=seed), new_video) for seed in (1, 2, 3)
    ]
    assert np.mean(found) <= chance + 2 * np.sqrt(chance * (1 - chance) / (3 * len(ACTIONS))), found


def test_a_killed_run_goes_on_with_the_same_result(howto, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STEPS_PER_EPOCH", 2)
    settings = dict(num_steps=5, batch_size=8, warmup=2)
    whole = train(tmp_path / "whole", howto, **settings)
    real, calls = s3d.mil_nce_loss, iter(range(100))

    def dying(*vectors):
        if next(calls) == 3:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return real(*vectors)

    monkeypatch.setattr(s3d, "mil_nce_loss", dying)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", howto, **settings)
    monkeypatch.setattr(s3d, "mil_nce_loss", real)
    killed = tmp_path / "killed"
    assert not (killed / "weights.pt").exists() and list(killed.glob("checkpoint-*.pt"))
    s3d.train(killed, howto=howto, **SMALL | settings)
    assert (whole / "history.csv").read_bytes() == (killed / "history.csv").read_bytes()
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (whole, killed)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_what_was_saved_comes_back(trained):
    model, words, size = s3d.load(trained)
    saved = torch.load(trained / "weights.pt", weights_only=True)
    assert not model.training and size == SIDE
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert words.words == sorted({word for text in TEXTS for word in text.split()})
    assert model.text_module.word_embd.num_embeddings == len(words) + 1, "one more for padding"


def test_few_videos_teach_the_words_of_those_alone(howto, tmp_path):
    """num_videos takes the first by name, and nothing is read of the others."""
    folder = train(tmp_path / "few", howto, num_videos=1, num_steps=1, batch_size=4)
    said = json.loads((howto / "raw_caption.json").read_text())["v00"]["text"]
    assert set(s3d.load(folder)[1].words) == {word for text in said for word in text.split()}


def test_clips_meet_the_captions_nearest_to_their_middle(howto):
    said = read_captions(howto / "raw_caption.json")["v00"]
    assert [s3d.bag(said, time, 1).tolist() for time in (1.5, 4.4, 11.0)] == [[0], [1], [3]]
    assert set(s3d.bag(said, 6.2, 2).tolist()) == {1, 2}, "between the second and the third"
    assert len(s3d.bag(said, 1.0, 3)) == 3


def test_it_trains_on_clips_decoded_by_workers_and_passes_over_what_cannot_be_read(howto, tmp_path, capfd):
    root = tmp_path / "howto"
    shutil.copytree(howto, root)
    broken = sorted((root / "videos").iterdir())[3]
    broken.write_bytes(b"no video")
    folder = train(tmp_path / "s3d", root, num_steps=8, fps=8.0, loading_workers=1, batch_size=16)
    assert len(pd.read_csv(folder / "history.csv")) == 1
    assert f"passed over, {broken}: not a readable video" in capfd.readouterr().out
    train(tmp_path / "whole", root, num_steps=1, batch_size=4)
    assert f"passed over, {broken}: not a readable video" in capfd.readouterr().out
    for path in (root / "videos").iterdir():
        path.write_bytes(b"no video")
    with pytest.raises(ValueError, match="100 videos in a row cannot be read"):
        train(tmp_path / "none", root, num_steps=1, fps=8.0, batch_size=4)
    with pytest.raises(ValueError, match="not one video with captions that is 4 frames long"):
        train(tmp_path / "nothing", root, num_steps=1, batch_size=4)
