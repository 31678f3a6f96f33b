"""Fine-tuning of systems that read frames, with a toy system: what it learns, keeps, and refuses."""

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import methods
from thesis_lib.training import clip_tuning, finetune
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
