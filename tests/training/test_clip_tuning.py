"""Fine-tuning of systems that read frames, with a toy system: what it learns, keeps, and refuses."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import methods
from thesis_lib.models import stochastic_depth
from thesis_lib.training import augmentation, clip_tuning, finetune
from thesis_lib.training.predictions import load_predictions

CLASSES = ("dark_frame", "bright_frame", "red_frame")
SIDE, FPS = 4, 5.0


class Encoder(torch.nn.Module):
    """Mean colours through a layer; its texts are learned vectors."""

    frames, seconds, size, dim, has_text = 2, 1.0, SIDE, 8, True

    def __init__(self):
        super().__init__()
        self.layer, self.texts = torch.nn.Linear(3, 8), torch.nn.Parameter(torch.randn(len(CLASSES), 8))

    def features(self, clips):
        return self.layer(clips.mean(dim=(2, 3, 4)))

    def embed(self, clips):
        return torch.nn.functional.normalize(self.features(clips), dim=1)

    def embed_texts(self, texts):
        assert texts == ["dark frame", "bright frame", "red frame"]
        return torch.nn.functional.normalize(self.texts, dim=1)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Six videos of eight seconds whose colour is their class; four to train on."""
    rng, root, clips = np.random.default_rng(0), tmp_path / "root", tmp_path / "clips"
    for folder in (root / "groundTruth", root / "splits", clips):
        folder.mkdir(parents=True)
    (root / "mapping.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(CLASSES)))
    colours = np.array([[20, 20, 20], [220, 220, 220], [220, 20, 20]])
    for video in range(6):
        labels = rng.integers(3, size=8)
        shown = np.broadcast_to(colours[labels][:, None, :, None, None], (8, 2, 3, SIDE, SIDE))
        noise = rng.integers(-10, 10, shown.shape)
        np.save(clips / f"v{video}.npy", (shown + noise).astype(np.uint8))
        frames = np.repeat(labels, int(FPS))[: 7 * int(FPS) + 3]
        (root / f"groundTruth/v{video}.txt").write_text("".join(f"{CLASSES[c]}\n" for c in frames))
    for part, videos in {"train": range(4), "test": (4, 5)}.items():
        (root / f"splits/{part}.split1.bundle").write_text("".join(f"v{v}.txt\n" for v in videos))

    def load(method, weights, vocab):
        torch.manual_seed(3)
        return Encoder()

    monkeypatch.setattr(methods, "load", load)
    return dict(
        method="toy", pretrained=tmp_path, vocab=tmp_path, clips=clips, root=root, split=1, fps=FPS, device="cpu"
    )


PUBLISHED = dict(layer_decay=0.75, stochastic_depth=0.1, label_smoothing=0.1, mixup=0.8, cutmix=1.0)
PUBLISHED |= dict(augment=True, fc_norm=True, cosine=True)


class Deep(Encoder):
    """With numbered blocks, of which any can be left out."""

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.stochastic_depth = torch.nn.Linear(8, 8), 0.0

        def forward(self, x):
            return x + stochastic_depth.leave_out(self.linear(x)[:, None], self.stochastic_depth, self.training)[:, 0]

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(self.Block() for _ in range(3))

    def features(self, clips):
        x = super().features(clips)
        for block in self.blocks:
            x = block(x)
        return x


@pytest.fixture
def deep(data, monkeypatch):
    def load(method, weights, vocab):
        torch.manual_seed(3)
        return Deep()

    monkeypatch.setattr(methods, "load", load)
    return data


def weights(folder):
    return torch.load(folder / "weights.pt", weights_only=True)


def run(folder, **arguments):
    folder.mkdir(exist_ok=True)
    clip_tuning.train(folder, **dict(num_epochs=12, epochs=(3, 12), lr=0.05, warmup=2, batch_size=8) | arguments)
    return folder


@pytest.mark.parametrize("head", ["classifier", "text"])
def test_it_learns_and_keeps_a_row_for_each_stated_epoch(data, tmp_path, head):
    folder = run(tmp_path / "out", head=head, **data)
    history = pd.read_csv(folder / "history.csv")
    assert history["accuracy"].notna().tolist() == [epoch in (3, 12) for epoch in range(1, 13)]
    assert history["accuracy"].iloc[-1] > 0.95
    names, predictions, targets = load_predictions(folder)
    assert names == ["v4", "v5"] and [len(t) for t in targets] == [8, 8]
    right = np.mean(np.concatenate(predictions) == np.concatenate(targets))
    assert right == pytest.approx(history["accuracy"].iloc[-1])
    early = load_predictions(folder, 0)[1]
    assert np.mean(np.concatenate(early) == np.concatenate(targets)) == pytest.approx(history["accuracy"][2])
    again = clip_tuning.load(folder, data["pretrained"], data["vocab"])
    clips = np.load(data["clips"] / "v5.npy")
    assert clip_tuning.score_video(again, clips).argmax(1).tolist() == predictions[1].tolist()


def test_the_first_epochs_of_a_longer_run_are_a_shorter_run(data, tmp_path):
    short = run(tmp_path / "short", **data | dict(num_epochs=3, epochs=[3], clips_per_video=3))
    long = run(tmp_path / "long", **data | dict(num_epochs=5, epochs=[3, 5], clips_per_video=3))
    a, b = (pd.read_csv(folder / "history.csv")["loss"].to_numpy() for folder in (short, long))
    np.testing.assert_array_equal(a, b[:3])
    assert all(map(np.array_equal, load_predictions(short)[1], load_predictions(long, 0)[1]))


def test_an_epoch_passes_so_many_clips_of_each_video_and_others_the_next_time(data, tmp_path, monkeypatch):
    seen, real = [], clip_tuning.seconds.as_input
    monkeypatch.setattr(clip_tuning.seconds, "as_input", lambda c: seen.append(c.numpy().copy()) or real(c))
    run(tmp_path / "out", **data | dict(num_epochs=6, epochs=[6], clips_per_video=3, batch_size=5))
    assert [len(clips) for clips in seen] == 6 * [5, 5, 2] + 2 * [8], "and the test videos whole"
    epochs = [np.concatenate(seen[3 * epoch : 3 * epoch + 3]) for epoch in range(6)]
    assert len({clip.tobytes() for clip in np.concatenate(epochs)}) > 20, "others in each epoch"
    videos = {clip.tobytes(): name for name in range(4) for clip in np.load(data["clips"] / f"v{name}.npy")}
    assert all(sorted(videos[clip.tobytes()] for clip in epoch) == sorted([0, 1, 2, 3] * 3) for epoch in epochs)


def test_several_phrases_of_a_class_are_one_class(data, tmp_path, monkeypatch):
    """All phrases of a name say the same to this encoder, so averaging them must change nothing."""

    def embed_texts(self, texts):
        classes = [next(i for i, name in enumerate(CLASSES) if name.split("_")[0] in text) for text in texts]
        return torch.nn.functional.normalize(self.texts[classes], dim=1)

    monkeypatch.setattr(Encoder, "embed_texts", embed_texts)
    for head in ("text", "classifier"):
        plain, averaged = (
            run(tmp_path / f"{head} {prompts}", head=head, **data | dict(prompts=prompts))
            for prompts in ("readable", "averaged")
        )
        one, other = (pd.read_csv(folder / "history.csv") for folder in (plain, averaged))
        np.testing.assert_allclose(one[["loss", "accuracy"]], other[["loss", "accuracy"]], rtol=1e-4)
        model = clip_tuning.load(averaged, data["pretrained"], data["vocab"])
        assert clip_tuning.score_video(model, np.load(data["clips"] / "v5.npy")).shape == (8, len(CLASSES))


def test_seconds_without_a_label_are_those_of_the_other_fine_tuning(data, tmp_path):
    """Clips of 8 seconds, labels of 7 seconds and 3 frames: as published, the rest is class 0, as for VideoCLIP."""
    frames = (data["root"] / "groundTruth/v4.txt").read_text().splitlines()
    (data["root"] / "groundTruth/v4.txt").write_text("\n".join(frames[:25]) + "\n")  # 5 seconds of 8
    features = tmp_path / "features"
    features.mkdir()
    for video in range(6):
        np.save(features / f"v{video}.npy", np.zeros((8, 3), np.float32))
    for rule in ("middle", "as_published"):
        ours, theirs = (
            module.read_videos(folder, data["root"], 1, "test", FPS, rule)
            for module, folder in ((clip_tuning, data["clips"]), (finetune, features))
        )
        assert [v.labels.tolist() for v in ours] == [v.labels.tolist() for v in theirs]
        assert all(len(v.clips) == len(v.labels) for v in ours)
        assert len(ours[0].labels) == (5 if rule == "middle" else 8)


def test_what_cannot_be_is_said(data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="head='both': choose one of classifier, text"):
        run(tmp_path / "a", head="both", **data)
    monkeypatch.setattr(Encoder, "has_text", False)
    with pytest.raises(ValueError, match="no text tower"):
        run(tmp_path / "b", head="text", **data)
    (data["clips"] / "v4.npy").unlink()
    with pytest.raises(ValueError, match=r"v4.npy: clips missing"):
        run(tmp_path / "c", **data)


def test_the_published_recipe_learns_and_a_killed_run_of_it_ends_the_same(deep, tmp_path, monkeypatch):
    settings = deep | PUBLISHED | dict(num_epochs=4, epochs=[4], lr=0.02, batch_size=6)
    whole = run(tmp_path / "whole", **settings)
    real, calls = clip_tuning.mix, iter(range(100))

    def dying(*arguments):
        if next(calls) == 9:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(clip_tuning, "mix", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", **settings)
    monkeypatch.setattr(clip_tuning, "mix", real)
    killed = run(tmp_path / "killed", **settings)
    assert (whole / "history.csv").read_bytes() == (killed / "history.csv").read_bytes()
    assert all(torch.equal(value, weights(killed)[name]) for name, value in weights(whole).items())
    again = clip_tuning.load(whole, deep["pretrained"], deep["vocab"])
    found = clip_tuning.score_video(again, np.load(deep["clips"] / "v5.npy")).argmax(1)
    assert found.tolist() == load_predictions(whole)[1][1].tolist()


@pytest.mark.parametrize("part", PUBLISHED)
def test_each_part_of_the_recipe_changes_what_is_learned(deep, tmp_path, part):
    settings = deep | dict(num_epochs=2, epochs=[2])
    plain, other = run(tmp_path / "plain", **settings), run(tmp_path / "other", **settings | {part: PUBLISHED[part]})
    assert not torch.equal(weights(plain)["encoder.layer.weight"], weights(other)["encoder.layer.weight"])


def test_augmentation_sees_training_clips_alone(data, tmp_path, monkeypatch):
    seen, real = [], augmentation.Augmentation.__call__
    monkeypatch.setattr(augmentation.Augmentation, "__call__", lambda self, c: seen.append(len(c)) or real(self, c))
    run(tmp_path / "out", **data | dict(num_epochs=2, epochs=[1, 2], augment=True))
    assert seen == 8 * [8], "in each epoch the 32 seconds of four videos, none of the other two"


def test_the_published_classifier_begins_undecided(data, tmp_path):
    """Weights near 0 know nothing: the loss is log 3 however labels are smoothed."""
    folder = run(tmp_path / "out", **data | dict(num_epochs=1, epochs=[1], lr=0.0, fc_norm=True, label_smoothing=0.1))
    row = pd.read_csv(folder / "history.csv").iloc[0]
    assert [row["loss"], row["test_loss"]] == pytest.approx([math.log(3)] * 2, abs=1e-3)


def test_the_rate_ends_at_0_or_stays(data, tmp_path):
    settings = data | dict(num_epochs=6, epochs=[6], lr=0.01)
    constant, cosine = (pd.read_csv(run(tmp_path / f"{on}", **settings, cosine=on) / "history.csv") for on in (0, 1))
    assert constant["lr"].tolist() == pytest.approx([0.01] * 6, rel=1e-4)
    falls = [(2 * epoch - 1) / 11 for epoch in range(1, 7)]  # of two steps an epoch the first of all warms up
    assert cosine["lr"].tolist() == pytest.approx([0.005 * (1 + math.cos(math.pi * done)) for done in falls])


def test_lower_layers_take_smaller_steps(deep, tmp_path):
    """With a tiny decay only the head moves, and with none all does."""
    torch.manual_seed(3)
    start = {f"encoder.{name}": value for name, value in Deep().state_dict().items()}
    for decay, still in ((1e-6, True), (1.0, False)):
        found = weights(
            run(tmp_path / f"{decay}", **deep | dict(num_epochs=1, epochs=[1], weight_decay=0.0, layer_decay=decay))
        )
        for number in range(3):
            name = f"encoder.blocks.{number}.linear.weight"
            assert torch.allclose(found[name], start[name], atol=1e-4) == still
        assert not torch.allclose(found["encoder.layer.weight"], start["encoder.layer.weight"], atol=1e-4)


def test_parts_of_the_recipe_that_cannot_be_are_said(data, tmp_path):
    with pytest.raises(ValueError, match="no layer of Encoder can be left out"):
        run(tmp_path / "a", stochastic_depth=0.1, **data)
    with pytest.raises(ValueError, match="cutmix=-1"):
        run(tmp_path / "b", cutmix=-1, **data)
