"""The registry: every system has a recipe with what notebooks ask of it, and a notebook that declares its arguments."""

import inspect

import pytest

from thesis_lib import methods, params

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
