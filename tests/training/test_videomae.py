"""VideoMAE on a narrated corpus written here: waves of any direction and colour that roll over the picture."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib.data.video import write_video
from thesis_lib.models.videomae import MEAN, STD, VideoMAE
from thesis_lib.training import loop, videomae

FRAMES, SIDE = 4, 16
SMALL = dict(num_steps=100, batch_size=16, lr=3e-3, warmup=5, ratio=0.5, frames=FRAMES, seconds=0.5, size=SIDE, patch=8)
SMALL |= dict(width=32, layers=2, heads=2, decoder_width=32, decoder_layers=1, decoder_heads=2)


def film(rng, frames=24):
    """Waves one picture long: what is seen of one tells the rest of it."""
    row, column = np.mgrid[:SIDE, :SIDE]
    across, phase, colour = rng.integers(2), rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1, 3)
    for time in range(frames):
        wave = np.sin(2 * np.pi * ((row if across else column) / SIDE + time / frames) + phase)
        yield (127 + 100 * wave[..., None] * colour).astype(np.uint8)


def write_howto(root, num_videos=6):
    """Videos of three seconds, each with a caption."""
    rng = np.random.default_rng(0)
    (root / "videos").mkdir(parents=True)
    captions = {f"v{number}": {"start": [1.0], "end": [2.0], "text": ["a wave"]} for number in range(num_videos)}
    for name in captions:
        write_video(root / f"videos/{name}.avi", film(rng), 8)
    (root / "raw_caption.json").write_text(json.dumps(captions))


@pytest.fixture(scope="module")
def howto(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "howto100m"
    write_howto(root)
    return root


def train(folder, howto, **changed):
    folder.mkdir()
    videomae.train(folder, howto=howto, **SMALL | changed)
    return folder


@pytest.fixture(scope="module")
def trained(howto, tmp_path_factory):
    return train(tmp_path_factory.mktemp("videomae") / "run", howto)


@pytest.fixture
def clips():
    return torch.rand(5, 3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def weights(folder):
    return torch.load(folder / "weights.pt", weights_only=True)


def test_hidden_cubes_become_known(trained):
    """A wave that is seen in part tells where it goes on: the loss falls far below 1, that of the mean of each cube."""
    loss = pd.read_csv(trained / "history.csv")["loss"]
    assert len(loss) == 4 and loss.iloc[-1] < 0.5 < loss[0], loss.tolist()


def test_the_rate_ends_where_it_is_told_to(howto, tmp_path):
    history = pd.read_csv(train(tmp_path / "run", howto, num_steps=2, warmup=0, last_lr=2e-4) / "history.csv")
    assert history["lr"].iloc[-1] == pytest.approx(2e-4, rel=1e-9)


def test_a_killed_run_goes_on_with_the_same_result(howto, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "STEPS_PER_EPOCH", 2)
    settings = dict(num_steps=5, batch_size=4, accumulate=2)
    whole = train(tmp_path / "whole", howto, **settings)
    real, calls = VideoMAE.reconstruct, iter(range(100))

    def dying(*arguments):
        if next(calls) == 5:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(VideoMAE, "reconstruct", dying)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", howto, **settings)
    monkeypatch.setattr(VideoMAE, "reconstruct", real)
    killed = tmp_path / "killed"
    assert not (killed / "weights.pt").exists() and list(killed.glob("checkpoint-*.pt"))
    videomae.train(killed, howto=howto, **SMALL | settings)
    assert (whole / "history.csv").read_bytes() == (killed / "history.csv").read_bytes()
    assert all(torch.equal(value, weights(killed)[name]) for name, value in weights(whole).items())


def test_the_seed_decides(howto, tmp_path):
    settings = dict(num_steps=2, batch_size=4)
    first, again = (train(tmp_path / name, howto, **settings) for name in ("first", "again"))
    other = train(tmp_path / "other", howto, **settings, seed=1)
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())
    assert not torch.equal(weights(first)["mask_token"], weights(other)["mask_token"])


def test_masking_and_targets_are_those_that_were_asked_for(howto, tmp_path, monkeypatch):
    """The masks that reach the model, and whether its targets are normalised."""
    asked, real = [], VideoMAE.targets

    def targets(model, clip, mask, normalise):
        asked.append((mask.unflatten(1, (2, 4, 4)), normalise))
        return real(model, clip, mask, normalise)

    monkeypatch.setattr(VideoMAE, "targets", targets)
    settings = dict(num_steps=1, batch_size=6, patch=4)
    train(tmp_path / "tube", howto, **settings, masking="tube", ratio=0.75)
    train(tmp_path / "random", howto, **settings, masking="random", ratio=0.75, normalise=False)
    train(tmp_path / "frame", howto, **settings, masking="frame", ratio=0.5)
    (tube, by_cube), (anywhere, raw), (frame, _) = asked
    assert by_cube and not raw
    assert (tube[:, 0] == tube[:, 1]).all() and (tube[:, 0].sum((1, 2)) == 12).all()
    assert not (anywhere[:, 0] == anywhere[:, 1]).all() and (anywhere.sum((1, 2, 3)) == 24).all()
    assert (frame == frame[:, :, :1, :1]).all() and (frame[:, :, 0, 0].sum(1) == 1).all()
    with pytest.raises(ValueError, match="choose one of tube, random, frame"):
        train(tmp_path / "none", howto, **settings, masking="tubes")


def test_what_was_saved_comes_back(trained, clips):
    encoder = videomae.load(trained, vocab=None)
    assert not encoder.training and not encoder.has_text
    assert (encoder.frames, encoder.seconds, encoder.size, encoder.dim) == (FRAMES, 0.5, SIDE, 32)
    assert all(torch.equal(value, weights(trained)[name]) for name, value in encoder.model.state_dict().items())
    with torch.no_grad():
        features, again = encoder.features(clips), videomae.load(trained).features(clips)
    assert features.shape == (5, 32) and torch.equal(features, again)


def test_features_are_the_mean_token_of_normalised_clips_and_can_be_trained(trained, clips):
    encoder = videomae.load(trained)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    features = encoder.features(clips)
    torch.testing.assert_close(features, encoder.model.encode((clips - mean) / std).mean(1))
    features.square().sum().backward()
    moved = {name for name, parameter in encoder.named_parameters() if parameter.grad is not None}
    assert moved == {name for name, _ in encoder.named_parameters() if name.startswith("model.encoder.")}


def test_it_has_no_text_and_reads_its_own_clips_alone(trained, clips):
    encoder = videomae.load(trained)
    with pytest.raises(ValueError, match="no text tower"):
        encoder.embed(clips)
    with pytest.raises(ValueError, match="no text tower"):
        encoder.embed_texts(["cut tomato"])
    for wrong in (clips[:, :, :2], clips[..., :8], clips.transpose(1, 2)):
        with pytest.raises(ValueError, match=r"was trained on clips \[3, 4, 16, 16\], not \["):
            encoder.features(wrong)


def test_an_official_file_becomes_an_encoder(tmp_path):
    torch.manual_seed(0)
    model = VideoMAE(hidden_size=192, num_hidden_layers=1, decoder_hidden_size=192, decoder_num_hidden_layers=1)
    torch.save({"model": model.state_dict(), "epoch": 799}, tmp_path / "checkpoint.pth")
    encoder = videomae.load(tmp_path / "checkpoint.pth")
    assert (encoder.frames, encoder.size, encoder.dim) == (16, 224, 192)
    assert encoder.seconds == pytest.approx(16 * 4 / 30), "every fourth frame of 30 a second"
    clip = torch.rand(1, 3, 16, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(encoder.features(clip), model(videomae.normalised(clip)))


def test_weight_decay_spares_what_is_no_matrix():
    model = VideoMAE(hidden_size=192, num_hidden_layers=1, decoder_hidden_size=192, decoder_num_hidden_layers=1)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, spared = ({names[p] for p in group["params"]} for group in videomae.decayed(model, 0.05))
    assert not decayed & spared and len(decayed) + len(spared) == len(names)
    assert spared == {n for n in names.values() if n.endswith("bias") or "norm" in n or n == "mask_token"}


def test_it_trains_on_clips_decoded_by_workers_in_mixed_precision(howto, tmp_path):
    settings = dict(num_steps=2, batch_size=4, on_demand=True, loading_workers=1, precision="bf16", num_videos=2)
    folder = train(tmp_path / "run", howto, **settings)
    assert np.isfinite(pd.read_csv(folder / "history.csv")["loss"]).all()


def test_it_trains_on_crops_and_mirror_images(howto, tmp_path):
    settings = dict(num_steps=2, batch_size=4)
    crops = dict(crop_scales=[1.0, 0.75, 0.5], flip=True)
    plain, first, again = (
        train(tmp_path / name, howto, **settings, **changed)
        for name, changed in (("plain", {}), ("first", crops), ("again", crops))
    )
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())
    assert not torch.equal(weights(plain)["mask_token"], weights(first)["mask_token"])
