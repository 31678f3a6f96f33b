"""Notebooks 06 and 07 ask VideoCLIP and the other systems alike: here a system of made-up vectors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from thesis_lib import adapters, appendix, clip_stages, methods, params, runs, stages

CLASSES = ("cut_tomato", "add_oil", "peel_cucumber")
FPS = 4.0


class Encoder(torch.nn.Module):
    has_text = True

    def embed_texts(self, texts):
        """The unit vector of the class whose words are in the text."""
        place = [next(i for i, name in enumerate(CLASSES) if name.split("_")[1] in text) for text in texts]
        return torch.eye(len(CLASSES))[place]


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Two test videos; the vector of each second is that of its class, but the last second shows another class."""
    (tmp_path / "splits").mkdir(), (tmp_path / "groundTruth").mkdir(), (tmp_path / "clips").mkdir()
    (tmp_path / "mapping.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(CLASSES)))
    (tmp_path / "splits/test.split1.bundle").write_text("a.txt\nb.txt\n")
    asked = []
    for name, labels in {"a": [0, 1, 1, 2], "b": [2, 2, 0]}.items():
        shown = [*labels[:-1], (labels[-1] + 1) % 3]
        np.save(tmp_path / f"clips/{name}.npy", np.zeros((len(labels), 2, 3, 4, 4), np.uint8))
        np.save(tmp_path / f"{name}.npy", np.eye(3, dtype=np.float32)[shown])
        frames = np.repeat(labels, int(FPS))
        (tmp_path / f"groundTruth/{name}.txt").write_text("".join(f"{CLASSES[label]}\n" for label in frames))
    monkeypatch.setattr(stages, "salads", lambda p: tmp_path)
    monkeypatch.setattr(stages, "vocabulary", lambda p: tmp_path / "vocab.txt")
    monkeypatch.setattr(stages, "fps", lambda p: FPS)
    monkeypatch.setattr(methods, "load", lambda method, weights, vocab: Encoder())
    monkeypatch.setattr(clip_stages, "clips", lambda p, method: tmp_path / "clips")
    monkeypatch.setattr(clip_stages, "weights", lambda p, method, **changed: asked.append(changed) or tmp_path)
    monkeypatch.setattr(clip_stages, "vectors", lambda p, method, kind, **changed: tmp_path)
    adapters._class_texts.cache_clear()
    p = SimpleNamespace(method="alpro", profile="smoke", seed=7, prompts="readable", seconds_rule="middle")
    p.control_videos, p.window, p.stride = 5, 32, 16
    return adapters.of(p), asked


def test_each_second_gets_the_class_whose_text_is_nearest(system):
    one, _ = system
    names, predictions, targets, scores = one.predict("reference", 1)
    assert names == ["a", "b"] and one.title == "ALPRO"
    assert [t.tolist() for t in targets] == [[0, 1, 1, 2], [2, 2, 0]]
    assert [p.tolist() for p in predictions] == [[0, 1, 1, 0], [2, 2, 1]]
    assert scores[0].shape == (4, 3)
    tokens, labels = one.tokens("reference", 1)
    assert tokens.shape == (7, 3) and labels.tolist() == [0, 1, 1, 2, 2, 2, 0]


def test_windows_mean_nothing_and_phrases_of_a_class_are_taken_together(system):
    one, _ = system
    plain = one.predict("reference", 1)[3]
    for changed in (dict(stride=4), dict(window=8), dict(prompts="averaged"), dict(prompts="raw")):
        assert all(map(np.allclose, plain, one.predict("reference", 1, **changed)[3])), changed


def test_the_weights_by_their_names(system):
    one, asked = system
    one.weights("reference"), one.weights("own"), one.control("permuted", 3, 1)
    assert asked[:2] == [{}, {"seed": 8}]
    assert asked[-1] == {"num_videos": 5, "captions": "permuted", "seed": 3}
    assert clip_stages.start_of(one.p, "scratch") == {"num_steps": 1, "prompter_steps": 1, "lr": 0.0}
    with pytest.raises(ValueError, match="no weights 'best': expected one of reference, own, scratch"):
        one.weights("best")


def test_zero_shot_accuracy_is_over_all_test_seconds_beside_that_of_a_constant_class(system, monkeypatch):
    one, asked = system
    (one.root / "splits/train.split1.bundle").write_text("b.txt\n")  # class 2 has most frames
    monkeypatch.setattr(params, "load", lambda notebook, profile: SimpleNamespace(**vars(one.p), splits=[1]))
    assert appendix.text_accuracy(one.p, "alpro", num_steps=3) == (pytest.approx(5 / 7), pytest.approx(3 / 7))
    assert asked == [{"num_steps": 3}]


def test_zero_shot_of_an_appendix_is_of_the_recipe_as_it_stands_there(system, monkeypatch):
    one, _ = system
    recipes = []
    for name in ("weights", "vectors", "clips"):
        known = getattr(clip_stages, name)
        monkeypatch.setattr(clip_stages, name, lambda p, *a, known=known, **k: recipes.append(p) or known(p, *a, **k))
    monkeypatch.setattr(params, "load", lambda notebook, profile: SimpleNamespace(**vars(one.p), splits=[1]))
    (one.root / "splits/train.split1.bundle").write_text("b.txt\n")
    recipe = SimpleNamespace(profile="smoke", num_steps=7)
    appendix.text_accuracy(recipe, "alpro", num_steps=3)
    assert len(recipes) >= 3 and all(p is recipe for p in recipes)


def test_an_argument_that_the_recipe_does_not_have_is_named():
    with pytest.raises(ValueError, match="videomae has no argument 'rato': expected one of folder, howto"):
        clip_stages.weights(SimpleNamespace(profile="smoke"), "videomae", rato=0.5)


def test_a_system_without_texts_is_not_asked_by_names():
    with pytest.raises(ValueError, match="method: 'videomae' has no text tower, so zero-shot cannot be asked of it"):
        adapters.of(SimpleNamespace(method="videomae"))
    assert methods.has_text("videoclip") and methods.has_text("svitt_ego") and not methods.has_text("videomae")


def test_notebook_07_finds_what_the_appendix_has_tuned(monkeypatch, tmp_path):
    """The same settings are the same inputs, so that nothing is trained twice."""
    asked = []
    monkeypatch.setattr(stages, "cached", lambda function, **inputs: tmp_path)
    monkeypatch.setattr(stages, "fps", lambda p: FPS)
    monkeypatch.setattr(runs, "cached", lambda function, **inputs: asked.append(inputs) or tmp_path)
    clip_stages.fine_tuning(SimpleNamespace(profile="smoke"), "svitt", 2, "text")
    p = params.load("07_fine_tuning", "smoke", {"method": "svitt"})
    clip_stages.tuned(p, 2, "reference", "text")
    by_appendix, by_notebook = (one for one in asked if "head" in one)
    assert by_appendix == by_notebook
