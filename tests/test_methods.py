"""The registry: every system has a recipe with what notebooks ask of it, and a notebook that declares its arguments.

What all systems promise is held at the sizes of the profile smoke, on a drawn corpus.
"""

import inspect
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import (
    appendix,
    clip_stages,
    graph,
    methods,
    metrics,
    params,
    paths,
    planted,
    results,
    runs,
    seconds,
    segmentation,
    stages,
    systems,
)
from thesis_lib.data.video import write_video
from thesis_lib.training import clip_tuning, loop
from thesis_lib.training.clip_tuning import Tuned

KNOWN = methods.there()


@pytest.mark.parametrize("name", KNOWN)
def test_a_recipe_is_trained_and_loaded_alike(name):
    recipe = methods.recipe(name)
    arguments = inspect.signature(recipe.train).parameters
    assert {"howto", "vocab", "seed", "device"} <= arguments.keys()
    about = methods.find(name)
    assert {*about.changed, *about.untrained} <= arguments.keys()
    needed = {key for key, one in arguments.items() if one.default is inspect.Parameter.empty} - {
        "folder",
        "howto",
        "vocab",
    }
    given = params.declared(about.notebook).keys() | about.changed.keys()
    assert needed <= given, "the notebook sets what has no default"


def test_an_unknown_system_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"^no method 'clip': expected one of videoclip, videomae, alpro"):
        methods.find("clip")


class Phrases:
    """A vector for each known word of a text, added up and brought to unit length."""

    words = {"tomato": (1.0, 0.0, 0.0), "cut": (0.0, 1.0, 0.0), "now": (0.0, 0.0, 1.0)}

    def embed_texts(self, texts):
        found = [
            torch.tensor([self.words.get(word, (0.1, 0.1, 0.1)) for word in text.split()]).sum(0) for text in texts
        ]
        return torch.nn.functional.normalize(torch.stack(found), dim=1)


@pytest.mark.parametrize("prompts", segmentation.STYLES)
def test_a_class_is_one_unit_vector_however_many_phrases_name_it(prompts):
    names = ["cut_tomato", "cut_cut"]
    vectors = methods.class_vectors(Phrases(), names, prompts)
    assert vectors.shape == (2, 3)
    for name, vector in zip(names, vectors, strict=True):
        mean = Phrases().embed_texts(segmentation.prompts([name], prompts)).sum(0)
        torch.testing.assert_close(vector, mean / mean.norm())


def learn(folder, *, howto, vocab, num_steps=7, frames=2, seconds=0.5, size=8, lr=0.1, seed=0, device="auto"):
    """A recipe all of whose arguments have defaults."""


def test_a_system_is_a_model_a_recipe_and_a_line(monkeypatch):
    recipe = SimpleNamespace(train=learn, __name__="toy")
    monkeypatch.setattr(methods, "recipe", lambda name: recipe)
    monkeypatch.setitem(methods.METHODS, "toy", methods.Method("Toy", "toy", "video, text"))
    p = clip_stages.of("toy", SimpleNamespace(profile="smoke"))
    assert (p.num_steps, p.frames, p.seconds, p.size, p.lr, p.profile) == (7, 2, 0.5, 8, 0.1, "smoke")
    assert p.tuned_lr == inspect.signature(clip_tuning.train).parameters["lr"].default and p.compared == []
    jobs = graph.jobs("smoke")
    own = {name: job["notebook"] for name, job in jobs.items() if name.startswith("toy")}
    assert own == {f"toy_{job}": "08_summary" for job in ("clips", "weights", "embed", "fine_tuning", "frozen")}
    asked = {}
    monkeypatch.setattr(runs, "cached", lambda function, **inputs: asked.update(inputs) or paths.ROOT)
    monkeypatch.setattr(stages, "cached", lambda function, **inputs: paths.ROOT)
    monkeypatch.setattr(stages, "fps", lambda p: 8.0)
    clip_stages.fine_tuning(p, "toy", 2, "text")
    tuned = params.load("07_fine_tuning", "smoke")
    assert (asked["head"], asked["epochs"], asked["num_epochs"]) == ("text", sorted(tuned.epochs), max(tuned.epochs))
    shared = ("warmup", "prompts", "seconds_rule", "precision", "seed", "device")
    assert {name: asked[name] for name in shared} == {name: getattr(tuned, name) for name in shared}


def test_the_summary_adds_the_rows_of_systems_without_a_notebook(monkeypatch):
    kept = pd.DataFrame([{"notebook": "04_baseline", "value": 1.0}, {"notebook": "08_summary", "value": 2.0}])
    monkeypatch.setattr(results, "load", lambda profile: kept)
    report, p = SimpleNamespace(rows={}), SimpleNamespace(profile="smoke")
    monkeypatch.setattr(appendix, "add_rows", lambda report, p, name: report.rows.update({name: {"value": 3.0}}))
    assert systems.all_rows(report, p)["value"].tolist() == [1.0]
    monkeypatch.setitem(methods.METHODS, "toy", methods.Method("Toy", "toy", "video"))
    assert systems.all_rows(report, p)["value"].tolist() == [1.0, 3.0] and report.rows == {"toy": {"value": 3.0}}


# -- what every system promises ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Sums by several threads differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "howto"
    planted.write_corpus(root, num_videos=4)
    return root


def train(name, folder, corpus, **changed):
    """A system at the sizes of its notebook in the profile smoke."""
    about, recipe = methods.find(name), methods.recipe(name)
    values = vars(params.load(about.notebook, "smoke")) | about.changed | changed
    values |= dict(howto=corpus, vocab=corpus / "vocab.txt", device="cpu")
    folder.mkdir()
    recipe.train(folder, **{key: values[key] for key in inspect.signature(recipe.train).parameters if key in values})
    return folder


@pytest.fixture(scope="module", params=methods.METHODS)
def name(request):
    return request.param


def pretrain(name, folder, corpus, lr=3e-3):
    """Twenty steps of one stage, whose loss is kept every five."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "STEPS_PER_EPOCH", 5)
        shorter = dict(num_steps=20, prompter_steps=5, stage_frames=[2], stage_keep=[0.7], batch_size=16)
        return train(name, folder, corpus, **shorter, lr=lr)


@pytest.fixture(scope="module")
def trained(name, corpus, tmp_path_factory):
    return pretrain(name, tmp_path_factory.mktemp(name) / "run", corpus)


@pytest.fixture(scope="module")
def encoder(name, trained, corpus):
    return methods.load(name, trained, corpus / "vocab.txt")


@pytest.fixture
def clips(encoder):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(5, 3, encoder.frames, encoder.size, encoder.size, generator=generator)


def test_a_short_pretraining_lowers_the_loss(name, trained, corpus, tmp_path):
    """On the same batches the weights it began with do worse; by themselves losses rise and fall with the batch."""
    untrained = pretrain(name, tmp_path / "run", corpus, lr=0.0)
    loss, before = (pd.read_csv(folder / "history.csv")["loss"] for folder in (trained, untrained))
    assert len(loss) == 4 and loss.iloc[-1] < 0.95 * before.iloc[-1], (loss.tolist(), before.tolist())


@torch.no_grad()
def test_clips_become_vectors(name, encoder, clips):
    assert not encoder.training and encoder.seconds > 0
    features = encoder.features(clips)
    assert features.shape == (5, encoder.dim) and features.dtype == torch.float32 and features.isfinite().all()
    assert (features[0] - features[1]).abs().max() > 1e-4, "other clips have other features"
    alone = torch.cat([encoder.features(clip[None]) for clip in clips])
    torch.testing.assert_close(alone, features, rtol=1e-4, atol=1e-5)
    assert encoder.has_text == ("text" in methods.find(name).modalities)


@torch.no_grad()
def test_clips_and_texts_meet_as_unit_vectors_or_it_is_refused(encoder, clips):
    texts = ["cut tomato", "tomato", "now the cheese"]
    if encoder.has_text:
        vectors, words = encoder.embed(clips), encoder.embed_texts(texts)
        assert vectors.shape == (5, words.shape[1]) and words.shape[0] == 3
        for found in (vectors, words):
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))
        torch.testing.assert_close(encoder.embed_texts(texts[1:2])[0], words[1])
        assert (words[0] - words[2]).abs().max() > 1e-4
        return
    for refused in (
        lambda: encoder.embed(clips),
        lambda: encoder.embed_texts(texts),
        lambda: methods.class_vectors(encoder, ["cut_tomato"], "readable"),
        lambda: Tuned(encoder, ["cut_tomato"], "text"),
    ):
        with pytest.raises(ValueError, match="no text tower"):
            refused()


def test_features_are_the_same_bit_for_bit(name, trained, encoder, corpus, clips, tmp_path):
    """A second time, after another load, and after the weights went through a file of their own."""
    with torch.no_grad():
        first = encoder.features(clips)
        torch.manual_seed(1)
        assert torch.equal(encoder.features(clips), first)
        again = methods.load(name, trained, corpus / "vocab.txt")
        assert torch.equal(again.features(clips), first)
        torch.save(encoder.state_dict(), tmp_path / "weights.pt")
        for parameter in again.parameters():
            parameter.add_(1.0)
        assert not torch.equal(again.features(clips), first)
        again.load_state_dict(torch.load(tmp_path / "weights.pt"))
        assert torch.equal(again.features(clips), first)


def test_the_seed_of_a_pretraining_decides_its_features(name, corpus, clips, tmp_path):
    found = []
    for number, seed in enumerate((0, 0, 1)):
        torch.manual_seed(number)
        folder = train(name, tmp_path / str(number), corpus, num_steps=1, prompter_steps=1, seed=seed)
        with torch.no_grad():
            found.append(methods.load(name, folder, corpus / "vocab.txt").features(clips))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_a_video_has_a_vector_for_each_second_of_labels(name, trained, encoder, corpus, tmp_path):
    (tmp_path / "videos").mkdir()
    lengths = {"whole": 20, "begun": 23, "short": 3}  # frames at 10 a second
    for video, length in lengths.items():
        frames = np.random.default_rng(0).integers(0, 256, (length, encoder.size, encoder.size, 3), dtype=np.uint8)
        write_video(tmp_path / f"videos/{video}.avi", frames, 10)
    clip = dict(frames=encoder.frames, seconds=encoder.seconds, size=encoder.size)
    seconds.extract_clips(tmp_path / "clips", root=tmp_path, **clip)
    about = dict(method=name, weights=trained, vocab=corpus / "vocab.txt", clips=tmp_path / "clips", device="cpu")
    for kind in ("features", "embed") if encoder.has_text else ("features",):
        (tmp_path / kind).mkdir()
        seconds.extract_vectors(tmp_path / kind, **about, kind=kind)
        for video, length in lengths.items():
            vectors, labels = np.load(tmp_path / kind / f"{video}.npy"), metrics.to_seconds(np.zeros(length, int), 10)
            assert len(vectors) == len(labels) == -(-length // 10) and vectors.dtype == np.float32
            assert kind == "embed" or vectors.shape[1] == encoder.dim
