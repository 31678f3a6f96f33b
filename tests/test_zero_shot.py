"""Zero-shot with towers made by hand: a known second has a known class, so every score has a closed form."""

import numpy as np
import pytest
import torch

from thesis_lib import metrics, segmentation, zero_shot
from thesis_lib.data.text import Vocabulary, write_vocab

CLASSES = ["cut_tomato", "peel_cucumber", "add_oil", "mix_dressing"]
FPS, SECONDS = 4, {"t1": [0, 1, 2, 3], "t2": [3, 3, 1], "t3": [2]}  # classes, each of HOLD seconds
HOLD = 10


class Towers(torch.nn.Module):
    """Video tokens are the features; the vector of a text is the one-hot of its first piece among the verbs."""

    def __init__(self, vocab):
        super().__init__()
        self.verbs = torch.tensor([Vocabulary(vocab).encode([name.split("_")[0]])[0][0, 1] for name in CLASSES])
        self.asked = []

    def encode_text(self, ids, mask):
        self.asked.append((ids, mask))
        return (ids[:, 1:2] == self.verbs).float()

    def encode_video_tokens(self, clips, mask, attend_cls=True):
        assert not attend_cls, "the official predictor masks [CLS] out"
        return clips * mask[..., None]


@pytest.fixture
def salads(tmp_path, monkeypatch):
    """(root, Towers): features of each second are the one-hot of its class, with noise below what changes a class."""
    for folder in ("features", "groundTruth", "splits"):
        (tmp_path / folder).mkdir()
    (tmp_path / "mapping.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(CLASSES)))
    rng = np.random.default_rng(0)
    for name, classes in SECONDS.items():
        seconds = np.repeat(classes, HOLD)
        vectors = np.eye(len(CLASSES))[seconds] + rng.uniform(0, 0.4, (len(seconds), len(CLASSES)))
        np.save(tmp_path / f"features/{name}.npy", vectors.astype(np.float32))
        frames = np.repeat(seconds, FPS)[:-8]  # two seconds of features have no label
        (tmp_path / f"groundTruth/{name}.txt").write_text("".join(f"{CLASSES[label]}\n" for label in frames))
    (tmp_path / "splits/test.split3.bundle").write_text("".join(f"{name}.txt\n" for name in SECONDS))
    write_vocab(tmp_path / "vocab.txt", [name.replace("_", " ") for name in CLASSES])
    towers = Towers(tmp_path / "vocab.txt")
    monkeypatch.setattr(zero_shot, "load", lambda weights: towers)
    return tmp_path, towers


def predict(root, **changed):
    return zero_shot.predict(
        root, features=root / "features", root=root, split=3, vocab=root / "vocab.txt", fps=FPS, **changed
    )


def test_every_second_gets_the_class_that_it_shows(salads):
    root, _ = salads
    names, predictions, targets, scores = predict(root)
    assert names == list(SECONDS)
    for name, found, target, score in zip(names, predictions, targets, scores, strict=True):
        expected = np.repeat(SECONDS[name], HOLD)[:-2]  # as far as both features and labels go
        assert found.tolist() == target.tolist() == expected.tolist()
        assert score.shape == (len(expected), len(CLASSES))
    assert metrics.evaluate(predictions, targets)["accuracy"] == 1


def test_the_rule_of_seconds_is_that_of_the_targets(salads):
    """The published rule keeps the two seconds of features that have no label, as class 0."""
    root, _ = salads
    plain, published = predict(root), predict(root, seconds_rule="as_published")
    for mine, theirs in zip(plain[2], published[2], strict=True):
        assert len(theirs) == len(mine) + 2 and theirs[-2:].tolist() == [0, 0]
    assert all(np.array_equal(a, b[: len(a)]) for a, b in zip(plain[1], published[1], strict=True))


def test_scores_of_overlapping_windows_are_merged_into_the_dot_products(salads):
    """These towers see one second at a time, so the mean over windows is the dot product itself, at any stride."""
    root, _ = salads
    for window, stride in ((32, 16), (8, 3), (7, 7)):
        for name, score in zip(*predict(root, window=window, stride=stride)[::3], strict=True):
            np.testing.assert_allclose(score, np.load(root / f"features/{name}.npy")[: len(score)], rtol=1e-5)


def test_other_texts_give_other_classes(salads):
    root, towers = salads
    towers.verbs = towers.verbs.roll(1)  # the vector of the text of class c now is that of videos of class c + 1
    _, predictions, targets, _ = predict(root)
    assert all(np.array_equal(found, (target - 1) % 4) for found, target in zip(predictions, targets, strict=True))


def test_class_vectors_are_one_a_class_of_names_as_asked_for(salads):
    root, towers = salads
    for style in ("averaged", "readable", "raw"):
        assert zero_shot.class_vectors(towers, root, root / "vocab.txt", style).shape == (len(CLASSES), len(CLASSES))
        expected = Vocabulary(root / "vocab.txt").encode(segmentation.prompts(CLASSES, style))
        assert all(np.array_equal(a, b) for a, b in zip(towers.asked[-1], expected, strict=True))
    _, readable, raw = (mask.sum(1) for _, mask in towers.asked)
    assert (raw == readable + 1).all(), "the underscore is a piece of its own"
    with pytest.raises(ValueError, match="prompt style is 'upper'"):
        zero_shot.class_vectors(towers, root, root / "vocab.txt", "upper")


def test_a_network_as_pretraining_leaves_it(salads, monkeypatch, tmp_path):
    """The real towers, random weights: shapes, and nothing random from one call to the next in spite of dropout."""
    from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig

    root, _ = salads
    vocabulary = Vocabulary(root / "vocab.txt")
    torch.manual_seed(0)
    settings = dict(vocab_size=len(vocabulary), hidden_size=16, num_attention_heads=2, intermediate_size=32)
    settings |= dict(video_layers=1, text_layers=1, video_dim=4, cls_id=vocabulary.cls, sep_id=vocabulary.sep)
    model = VideoCLIP(VideoCLIPConfig(**settings)).eval()
    monkeypatch.setattr(zero_shot, "load", lambda weights: model)
    assert zero_shot.class_vectors(model, root, root / "vocab.txt").shape == (len(CLASSES), 16)
    first, again = predict(root), predict(root)
    for a, b in zip(first[3], again[3], strict=True):
        assert np.array_equal(a, b) and np.isfinite(a).all()
    assert all(np.array_equal(p, s.argmax(1)) for p, s in zip(first[1], first[3], strict=True))
