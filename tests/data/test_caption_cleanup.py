"""Scrolling captions say everything once afterwards; cutting cuts."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from thesis_lib.data.caption_cleanup import cut, merge_overlaps
from thesis_lib.data.captions import Captions


class Coin:
    """The same side every time: above one half the shared part stays with the earlier caption."""

    def __init__(self, value):
        self.value = value

    def random(self):
        return self.value


def said(*rows):
    starts, ends, texts = zip(*rows, strict=True)
    return Captions(np.array(starts, float), np.array(ends, float), list(texts))


def rows(captions):
    return list(zip(captions.starts.tolist(), captions.ends.tolist(), captions.texts, strict=True))


def test_each_rule():
    for coin in (Coin(0.9), Coin(0.1)):
        assert rows(merge_overlaps(said((0, 2, "cut it"), (1, 3, "it")), coin)) == [(0, 3, "cut it")]
        assert rows(merge_overlaps(said((0, 2, "cut"), (1, 3, "cut it")), coin)) == [(0, 3, "cut it")]
        assert rows(merge_overlaps(said((0, 2, "ab"), (1, 3, "xy")), coin)) == [(0, 2, "ab"), (1, 3, "xy")]
        assert rows(merge_overlaps(said((0, 2, " \n"), (1, 3, "x\ny ")), coin)) == [(1, 3, "x y")]
    overlap = said((0, 4, "now cut the ham"), (3, 6, "m and eggs"))
    assert rows(merge_overlaps(overlap, Coin(0.9))) == [(0, 4, "now cut the ham"), (4, 6, "and eggs")]
    assert rows(merge_overlaps(overlap, Coin(0.1))) == [(0, 3, "now cut the ha"), (3, 6, "m and eggs")]


@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 9), st.text("ab ", max_size=6)), max_size=12), st.integers(0, 99)
)
def test_times_stay_in_order_and_no_text_is_made_up(spans, seed):
    spans = sorted((start, start + length, text) for start, length, text in spans)
    before = said(*spans) if spans else Captions(np.empty(0), np.empty(0), [])
    after = merge_overlaps(before, np.random.default_rng(seed))
    assert (after.ends >= after.starts).all() and (np.diff(after.starts) >= 0).all() and all(after.texts)
    assert sum(map(len, after.texts)) <= sum(map(len, before.texts))
    assert set("".join(after.texts)) <= set("".join(before.texts))
    heard = "".join(before.texts).replace(" ", "")
    assert bool("".join(after.texts).replace(" ", "")) == bool(heard)  # something stays of what was said


def test_cut():
    assert cut(said((0, 1, "x" * 200), (1, 2, "y"))).texts == ["x" * 96, "y"]
