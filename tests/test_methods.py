"""The registry: every system has a recipe with what notebooks ask of it, and a notebook that declares its arguments."""

import inspect

import pytest
import torch

from thesis_lib import methods, params, segmentation

KNOWN = [name for name, one in methods.METHODS.items() if one.notebook in params.notebooks()]


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
