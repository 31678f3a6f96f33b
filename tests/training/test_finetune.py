"""Fine-tuning on videos whose features say the class: both heads learn it, from random weights and from others."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import metrics, segmentation
from thesis_lib.data.text import Vocabulary, write_vocab
from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig
from thesis_lib.training import epochs, finetune, videoclip
from thesis_lib.training.predictions import load_predictions

CLASSES = ["cut_tomato", "place_tomato", "add_oil", "mix_dressing"]
DIM, FPS = 12, 5
SIZE = dict(width=16, video_layers=1, text_layers=1, heads=2)


@pytest.fixture(scope="module")
def salads(tmp_path_factory):
    """(root, features, vocab): labels at 5 fps, a vector a second = class vector + noise; labels end 3 frames early."""
    root = tmp_path_factory.mktemp("salads")
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(CLASSES), DIM))
    for folder in ("features", "groundTruth", "splits"):
        (root / folder).mkdir()
    (root / "mapping.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(CLASSES)))
    names = [f"rgb-{1 + number:02d}-1" for number in range(15)]
    for name in names:
        seconds = np.repeat(rng.permutation(len(CLASSES)), rng.integers(6, 16, len(CLASSES)))
        features = vectors[seconds] + rng.normal(scale=0.4, size=(len(seconds), DIM))
        np.save(root / "features" / f"{name}.npy", features.astype(np.float32))
        frames = np.repeat(seconds, FPS)[:-3]
        (root / "groundTruth" / f"{name}.txt").write_text("".join(f"{CLASSES[label]}\n" for label in frames))
    for part, chosen in (("train", names[:12]), ("test", names[12:])):
        (root / "splits" / f"{part}.split1.bundle").write_text("".join(f"{name}.txt\n" for name in chosen))
    write_vocab(root / "vocab.txt", [name.replace("_", " ") for name in CLASSES])
    return root


def train(tmp_path, root, name="run", **changed):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    arguments = dict(pretrained="", features=root / "features", root=root, vocab=root / "vocab.txt", split=1, fps=FPS)
    arguments |= dict(num_epochs=8, warmup=5, lr=5e-3) | SIZE
    finetune.train(folder, **arguments | changed)
    return folder, pd.read_csv(folder / "history.csv")


def pretrained_folder(tmp_path, root):
    """Random weights as pretraining would leave them."""
    vocabulary = Vocabulary(root / "vocab.txt")
    settings = dict(vocab_size=len(vocabulary), hidden_size=16, num_attention_heads=2, intermediate_size=32)
    settings |= dict(video_layers=1, text_layers=1, video_dim=DIM, cls_id=vocabulary.cls, sep_id=vocabulary.sep)
    torch.manual_seed(0)
    model = VideoCLIP(VideoCLIPConfig(**settings))
    folder = tmp_path / "pretrained"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    torch.save(model.state_dict(), folder / "weights.pt")
    return folder, model


@pytest.mark.parametrize("head", ["classifier", "text"])
def test_both_heads_learn_from_random_weights(salads, tmp_path, head):
    folder, history = train(tmp_path, salads, head=head)
    last = history.iloc[-1]
    assert last["accuracy"] > 0.9
    assert last["test_loss"] < history["test_loss"][0]
    assert len(history) == 8

    for row, epoch in zip(history.itertuples(), range(8), strict=True):
        names, predictions, targets = load_predictions(folder, epoch)
        assert metrics.evaluate(predictions, targets)["accuracy"] == pytest.approx(row.accuracy)
    assert names == ["rgb-13-1", "rgb-14-1", "rgb-15-1"]

    # The weights in the folder make the last predictions.
    model = videoclip.load(folder)
    vocabulary = Vocabulary(salads / "vocab.txt")
    features = torch.from_numpy(np.load(salads / "features" / "rgb-13-1.npy"))
    if head == "text":
        ids, mask = map(torch.from_numpy, vocabulary.encode(segmentation.prompts(CLASSES)))
        classifier = model.encode_text(ids, mask).detach()
    else:
        classifier = model.video_encoder.classifier
    logits = segmentation.segment(lambda x, m: model.encode_video_tokens(x, m, False), features, classifier)
    assert np.array_equal(logits.argmax(1).numpy(), predictions[0])


def test_it_starts_from_pretrained_weights_and_trains_what_it_should(salads, tmp_path):
    folder, start = pretrained_folder(tmp_path, salads)
    changed = {}
    for head, freeze in (("classifier", False), ("text", False), ("text", True)):
        name = f"{head}{freeze}"
        arguments = dict(pretrained=folder, head=head, freeze_text=freeze, num_epochs=1, lr=1e-5)
        run, _ = train(tmp_path, salads, name, **arguments)
        after = torch.load(run / "weights.pt", weights_only=True)
        before = start.state_dict()
        assert all((after[key] - value).abs().max() < 1e-3 for key, value in before.items())
        changed[name] = {key.split(".")[0] for key, value in before.items() if not torch.equal(after[key], value)}
    assert changed == {
        "classifierFalse": {"video_encoder"},
        "textFalse": {"video_encoder", "text_encoder"},
        "textTrue": {"video_encoder"},
    }


def test_a_classifier_of_other_classes_is_replaced(salads, tmp_path):
    first, _ = train(tmp_path, salads, "first", num_epochs=1)
    weights = torch.load(first / "weights.pt", weights_only=True)
    weights["video_encoder.classifier.weight"] = torch.zeros(779, 16)
    weights["video_encoder.classifier.bias"] = torch.zeros(779)
    config = VideoCLIPConfig(**json.loads((first / "config.json").read_text()))
    assert finetune.build(config, weights, 4).video_encoder.classifier.weight.shape == (4, 16)
    with pytest.raises(ValueError, match="do not fit their configuration"):
        finetune.build(config, {key: value for key, value in weights.items() if "videomlp" not in key}, 4)


def test_fewer_videos_are_a_part_of_more(salads, tmp_path, monkeypatch):
    seen = []
    real = segmentation.window_targets
    monkeypatch.setattr(segmentation, "window_targets", lambda *a: seen[-1].add(tuple(a[0].tolist())) or real(*a))
    for count in (2, 4, 0):
        seen.append(set())
        train(tmp_path, salads, str(count), num_videos=count, num_epochs=1)
    assert [len(labels) for labels in seen] == [2, 4, 12]
    assert seen[0] < seen[1] < seen[2]


def test_a_killed_run_goes_on_with_the_same_result(salads, tmp_path, monkeypatch):
    whole, _ = train(tmp_path, salads, "whole", num_epochs=3, head="text")
    real, calls = finetune.cross_entropy, iter(range(1000))

    def dying(*arguments):
        if next(calls) == 20:  # in the second epoch
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(finetune, "cross_entropy", dying)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, salads, "killed", num_epochs=3, head="text")
    monkeypatch.undo()
    killed, _ = train(tmp_path, salads, "killed", num_epochs=3, head="text")
    for name in ("history.csv", "predictions.npz"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    weights = [torch.load(folder / "weights.pt", weights_only=True) for folder in (whole, killed)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())


def test_seconds_of_a_video(salads):
    """As many seconds as both sides have; the published rule keeps all features and calls the rest class 0."""
    (salads / "splits" / "train.split2.bundle").write_text("rgb-01-1.txt\n")
    vectors = np.load(salads / "features" / "rgb-01-1.npy")
    (salads / "longer").mkdir()
    np.save(salads / "longer" / "rgb-01-1.npy", np.concatenate([vectors, vectors[:2]]))
    (video,) = finetune.read_videos(salads / "longer", salads, 2, "train", FPS)
    assert video.features.shape == (len(vectors), DIM) and len(video.labels) == len(vectors)
    (video,) = finetune.read_videos(salads / "longer", salads, 2, "train", FPS, "as_published")
    assert video.features.shape == (len(vectors) + 2, DIM) and video.labels[-2:].tolist() == [0, 0]
    np.save(salads / "longer" / "rgb-01-1.npy", vectors[:-4])
    (video,) = finetune.read_videos(salads / "longer", salads, 2, "train", FPS)
    assert len(video.features) == len(video.labels) == len(vectors) - 4


def test_an_unknown_head_is_refused(salads, tmp_path):
    with pytest.raises(ValueError, match="choose one of classifier, text"):
        train(tmp_path, salads, head="dot")


def test_a_choice_picks_among_epochs_of_one_run_and_keeps_its_weights(salads, tmp_path):
    """The run is the same, whatever is chosen on the test videos; only the weights differ."""
    last, history = train(tmp_path, salads, "last", lr=2e-2)
    chosen, same = train(tmp_path, salads, "chosen", lr=2e-2, epoch_choice="test_loss")
    pd.testing.assert_frame_equal(history, same)
    best = int(history["epoch"][history["test_loss"].idxmin()])
    epoch, _, predictions, targets = epochs.load_chosen(chosen, "test_loss")
    assert epoch == best
    accuracy = history.set_index("epoch")["accuracy"]
    assert metrics.evaluate(predictions, targets)["accuracy"] == pytest.approx(accuracy[best])
    assert epochs.load_chosen(last, "last", 3)[0] == 3
    stopped, _ = train(tmp_path, salads, "stopped", lr=2e-2, num_epochs=best)
    one, other = (torch.load(folder / "weights.pt", weights_only=True) for folder in (chosen, stopped))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_held_out_videos_are_not_trained_on(salads, tmp_path, monkeypatch):
    seen = set()
    real = segmentation.window_targets
    monkeypatch.setattr(segmentation, "window_targets", lambda *a: seen.add(tuple(a[0].tolist())) or real(*a))
    _, history = train(tmp_path, salads, num_epochs=2, epoch_choice="held_out")
    assert len(seen) == 10, "of twelve users two are held out"
    assert history["held_out_loss"].notna().all()
    with pytest.raises(ValueError, match="nothing can be held out of 1 training videos"):
        train(tmp_path, salads, "one", num_videos=1, epoch_choice="held_out")


@pytest.mark.parametrize("freeze_text", [False, True])
def test_averaged_prompts_train_a_head_of_as_many_classes(salads, tmp_path, freeze_text):
    folder, history = train(tmp_path, salads, head="text", prompts="averaged", freeze_text=freeze_text, num_epochs=4)
    assert history["test_loss"].iloc[-1] < history["test_loss"][0]
    assert max(labels.max() for labels in load_predictions(folder)[1]) < len(CLASSES)


def test_half_precision_is_close(salads, tmp_path):
    _, full = train(tmp_path, salads, "full", num_epochs=2)
    _, half = train(tmp_path, salads, "half", num_epochs=2, precision="bf16")
    assert half["loss"].iloc[-1] == pytest.approx(full["loss"].iloc[-1], rel=0.05)
    assert not np.array_equal(half["loss"], full["loss"])
