"""Masks: what each kind hides, how much, and how evenly."""

import json
from pathlib import Path

import numpy as np
import pytest

from thesis_lib.masking import MASKS, masks

FACTS = json.loads((Path(__file__).parent / "golden/videomae/tube_masking_facts.json").read_text())
CLIP = (8, 14, 14)  # cubes of a published clip


@pytest.mark.parametrize("case", FACTS)
def test_tubes_are_those_of_the_official_generator(case):
    grid, _, ratio = case.partition("@")
    grid, facts = tuple(json.loads(grid.replace("(", "[").replace(")", "]"))), FACTS[case]
    drawn = masks("tube", grid, float(ratio), np.random.default_rng(0), facts["draws"])
    assert drawn.dtype == bool and drawn.shape == (facts["draws"], *facts["shape"])
    assert (drawn.sum(1) == facts["total_masks"]).all() and facts["total_patches"] == drawn.shape[1]
    rows = drawn.reshape(len(drawn), grid[0], -1)
    assert (rows == rows[:, :1]).all() and (rows.sum(2) == facts["per_frame"]).all()
    share = facts["per_frame"] / rows.shape[2]
    spread = np.sqrt(share * (1 - share) / len(drawn))
    assert np.abs(rows[:, 0].mean(0) - share).max() < 5 * spread, "each place is hidden as often as any other"
    distinct = len(np.unique(drawn, axis=0))
    assert abs(distinct - facts["distinct_of_2000"]) < 0.05 * facts["distinct_of_2000"] + 2


def test_ninety_per_cent_of_a_published_clip_leaves_160_tokens():
    assert [int((~masks("tube", CLIP, ratio, np.random.default_rng(0))).sum()) for ratio in (0.75, 0.9, 0.95)] == [
        392, 160, 80
    ]  # fmt: skip


def test_random_masks_hide_any_cubes_and_equally_many():
    drawn = masks("random", CLIP, 0.9, np.random.default_rng(0), 400)
    assert (drawn.sum(1) == int(0.9 * 1568)).all()
    assert np.abs(drawn.mean(0) - 0.9).max() < 5 * np.sqrt(0.09 / 400)
    rows = drawn.reshape(400, 8, 196)
    alike = (rows[:, 0] == rows[:, 1]).mean()
    assert alike == pytest.approx(0.9**2 + 0.1**2, abs=0.01), "two moments agree as independent ones do"


def test_frame_masks_hide_whole_moments():
    drawn = masks("frame", CLIP, 0.9, np.random.default_rng(0), 400).reshape(400, 8, 196)
    assert (drawn == drawn[:, :, :1]).all() and (drawn[:, :, 0].sum(1) == 7).all()
    assert np.abs(drawn[:, :, 0].mean(0) - 7 / 8).max() < 5 * np.sqrt(7 / 64 / 400)


@pytest.mark.parametrize("kind", MASKS)
def test_the_generator_decides(kind):
    first, again, other = (masks(kind, (8, 4, 4), 0.5, np.random.default_rng(seed), 8) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    assert len(np.unique(first, axis=0)) > 1, "the clips of a batch have masks of their own"


@pytest.mark.parametrize(
    ("kind", "ratio", "message"),
    [
        ("tubes", 0.9, "masking='tubes': choose one of tube, random, frame"),
        ("tube", 0.05, "ratio=0.05: a tube mask of 4 x 4 x 4 cubes hides 0 of 16"),
        ("tube", 1.0, "hides 16 of 16"),
        ("frame", 0.2, "a frame mask of 4 x 4 x 4 cubes hides 0 of 4"),
        ("random", -0.5, "hides -32 of 64"),
    ],
)
def test_what_hides_nothing_or_all_is_refused(kind, ratio, message):
    with pytest.raises(ValueError, match=message):
        masks(kind, (4, 4, 4), ratio, np.random.default_rng(0))
