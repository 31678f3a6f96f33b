"""ALPRO on a narrated corpus of the drawn kitchen: each video cuts four things in random order, captions name them."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib.data.kitchen import FPS, Kitchen
from thesis_lib.data.text import write_vocab
from thesis_lib.data.video import write_video
from thesis_lib.training import alpro
from thesis_lib.training.entities import random_region

THINGS = ("tomato", "cheese", "lettuce", "cucumber")
SECONDS, SIDE, PATCH = 2, 24, 6
BOARD = (2, 1)  # the patch in whose middle the thing lies: row, column
SMALL = dict(num_steps=10, prompter_steps=70, batch_size=32, lr=2e-3, warmup=5, frames=2, seconds=0.5, size=SIDE)
SMALL |= dict(patch_size=PATCH, hidden_size=32, num_attention_heads=2, video_layers=1, text_layers=1, fusion_layers=1)
SMALL |= dict(embed_dim=16, num_entities=4, dropout=0.0, drop_path=0.0, start="prompter", device="cpu")
TINY = SMALL | dict(num_steps=3, prompter_steps=2, batch_size=4, hidden_size=16, warmup=1)


def write_corpus(root, num_videos=12):
    rng = np.random.default_rng(0)
    (root / "videos").mkdir(parents=True)
    said = {}
    for number in range(num_videos):
        kitchen, order = Kitchen(rng, 0.0), rng.permutation(THINGS)
        frames = [frame for thing in order for frame in kitchen.act("cut", thing, SECONDS * FPS)]
        write_video(root / f"videos/v{number:02d}.avi", frames, FPS)
        starts = [SECONDS * k + 0.75 for k in range(4)]
        said[f"v{number:02d}"] = {"start": starts, "end": [t + 0.5 for t in starts], "text": list(map(str, order))}
    (root / "raw_caption.json").write_text(json.dumps(said))
    write_vocab(root / "vocab.txt", THINGS)


@pytest.fixture(scope="module")
def howto(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "howto"
    write_corpus(root)
    return root


def train(folder, howto, **settings):
    folder.mkdir(exist_ok=True)
    alpro.train(folder, howto=howto, vocab=howto / "vocab.txt", **settings)
    return folder


@pytest.fixture(scope="module")
def trained(howto, tmp_path_factory):
    return train(tmp_path_factory.mktemp("alpro") / "run", howto, **SMALL)


@pytest.fixture(scope="module")
def tiny(howto, tmp_path_factory):
    return train(tmp_path_factory.mktemp("alpro") / "tiny", howto, **TINY)


def new_clips(count=40):
    """(clips [count, 3, 2, SIDE, SIDE] in 0..1, thing of each) of kitchens outside the corpus."""
    rng, clips = np.random.default_rng(1), []
    for number in range(count):
        frames = Kitchen(rng, 0.0).act("cut", THINGS[number % 4], 4)[[1, 3]]
        small = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 255
        clips.append(torch.nn.functional.interpolate(small, size=(2, SIDE, SIDE), mode="area"))
    return torch.cat(clips), np.arange(count) % 4


# -- the claims --------------------------------------------------------------------------------------------------------


def test_labels_of_regions_recover_the_planted_object(trained):
    """A box around the thing is labelled with its name; one that leaves it out is not."""
    model, about = alpro.load_model(trained)
    assert sorted(about["entities"]) == sorted(THINGS)
    clips, things = new_clips()
    rng, right = np.random.default_rng(0), {True: [], False: []}
    for clip, thing in zip(clips, things, strict=True):
        for _ in range(8):
            region = random_region(rng, SIDE // PATCH, SIDE // PATCH)
            shown = alpro.normalise(alpro.cut_out(clip[None], torch.from_numpy(region)[None]))
            named = about["entities"][int(model.prompter.soft_labels(shown).argmax())]
            around = region[BOARD[0] - 1 : BOARD[0] + 2, BOARD[1] - 1 : BOARD[1] + 2]
            if around.sum() >= 6 or not around.any():
                right[bool(around.any())].append(named == THINGS[thing])
    assert len(right[True]) > 20 and len(right[False]) > 20
    assert np.mean(right[True]) > 0.9 and np.mean(right[False]) < 0.6, {k: np.mean(v) for k, v in right.items()}


def test_captions_alone_teach_what_a_clip_shows(trained, howto):
    encoder = alpro.load(trained, howto / "vocab.txt")
    clips, things = new_clips()
    with torch.no_grad():
        guesses = (encoder.embed(clips) @ encoder.embed_texts(THINGS).T).argmax(dim=1).numpy()
    assert (guesses == things).mean() > 0.75, "chance is 0.25"


def test_every_loss_goes_down(howto, trained, tmp_path):
    """From the prompter's encoders; each loss on a batch that is not trained on, at the first and the last epoch."""
    settings = SMALL | dict(num_steps=75, lr=3e-3)
    folder = train(tmp_path / "long", howto, **settings, prompter=trained / "prompter")
    history = pd.read_csv(folder / "history.csv")
    assert history["loss"].iloc[-1] < history["loss"][0] - 0.3
    for name in ("vtm", "mlm", "pem"):
        assert history[name].iloc[-1] < history[name][0], name
    assert not (folder / "prompter").exists()
