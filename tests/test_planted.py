"""The planted thing: which boxes hold it, and that captions name what is drawn."""

import json

import numpy as np
import pytest

from thesis_lib import planted
from thesis_lib.data.kitchen import SIZE, Kitchen
from thesis_lib.data.text import Vocabulary
from thesis_lib.planted import COLUMNS, PATCH, ROW, SIDE
from thesis_lib.pseudo_labels import PseudoLabels, pseudo_labels


def test_the_place_is_where_things_differ():
    """Over the whole cut of any two things, most pixels that differ lie in the patches that `right` asks about."""
    frames = [Kitchen(np.random.default_rng(0), 0.0).act("cut", thing, 16).astype(int) for thing in planted.THINGS]
    side = PATCH * SIZE // SIDE
    for one, other in zip(frames, frames[1:], strict=False):
        differs = np.abs(one - other).sum(axis=(0, 3))
        place = differs[side * ROW : side * (ROW + 1), : side * COLUMNS]
        assert place.sum() > 0.8 * differs.sum()


def test_boxes_are_told_apart():
    boxes = PATCH * np.array([[0, 1, 2, 3], [0, 2, 3, 2], [1, 1, 3, 2], [2, 1, 2, 2], [0, 0, 4, 2], [0, 3, 4, 1]])
    captions = ["now the tomato", "cheese", "tomato", "tomato", "cheese", "take a tomato"]
    rows = np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.3, 0.7]])
    found = PseudoLabels(np.zeros((6, SIDE, SIDE, 3)), boxes, captions, ["tomato", "cheese"], rows, np.zeros((6, 2)))
    right = planted.right(found)
    assert right["holds it"].tolist() == [True, False], "the first two; the third and fourth show a part of the row"
    assert right["leaves it out"].tolist() == [True, False]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    planted.train(folder, prompter_steps=2, seed=1, device="cpu")
    return folder


def test_unseen_videos_are_others_of_the_same_kind(folder):
    said = {name: json.loads((folder / name / "raw_caption.json").read_text()) for name in ("seen", "unseen")}
    assert said["seen"].keys() == said["unseen"].keys() and said["seen"] != said["unseen"]
    for captions in said["unseen"].values():
        named = [word for text in captions["text"] for word in text.split() if word in planted.THINGS]
        assert sorted(named) == sorted(planted.THINGS), "each once"


def test_the_prompter_is_asked_about_the_things(folder):
    found = pseudo_labels(folder, howto=folder / "unseen", count=40)
    assert sorted(found.entities) == sorted(planted.THINGS)
    right = planted.right(found)
    assert len(right["holds it"]) > 5 and len(right["leaves it out"]) > 2
    vocabulary = Vocabulary(folder / "seen/vocab.txt")
    assert vocabulary.tokens("video footage portrait") == ["video", "footage", "portrait"]
