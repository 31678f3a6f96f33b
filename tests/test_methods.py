"""The registry: every system has a recipe with what notebooks ask of it, and a notebook that declares its arguments."""

import inspect
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from thesis_lib import appendix, clip_stages, graph, methods, params, results, segmentation, systems
from thesis_lib.training import clip_tuning

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
    p = clip_stages.of("toy", "smoke")
    assert (p.num_steps, p.frames, p.seconds, p.size, p.lr, p.profile) == (7, 2, 0.5, 8, 0.1, "smoke")
    assert p.tuned_lr == inspect.signature(clip_tuning.train).parameters["lr"].default and p.compared == []
    jobs = graph.jobs("smoke")
    own = {name: job["notebook"] for name, job in jobs.items() if name.startswith("toy")}
    assert own == {f"toy_{job}": "08_summary" for job in ("clips", "weights", "fine_tuning", "frozen")}


def test_the_summary_adds_the_rows_of_systems_without_a_notebook(monkeypatch):
    kept = pd.DataFrame([{"notebook": "04_baseline", "value": 1.0}, {"notebook": "08_summary", "value": 2.0}])
    monkeypatch.setattr(results, "load", lambda profile: kept)
    report, p = SimpleNamespace(rows={}), SimpleNamespace(profile="smoke")
    monkeypatch.setattr(appendix, "add_rows", lambda report, p, name: report.rows.update({name: {"value": 3.0}}))
    assert systems.all_rows(report, p)["value"].tolist() == [1.0]
    monkeypatch.setitem(methods.METHODS, "toy", methods.Method("Toy", "toy", "video"))
    assert systems.all_rows(report, p)["value"].tolist() == [1.0, 3.0] and report.rows == {"toy": {"value": 3.0}}
