"""Entities are the words that are said most, their texts go template by template, boxes lie on the grid."""

import numpy as np
import pytest

from thesis_lib.training.entities import STOP_WORDS, TEMPLATES, frequent_words, prompt_texts, random_region, word_counts


def test_the_most_frequent_content_words():
    texts = ["Now cut the tomato", "cut my tomato, and the cheese", "Tomato! it is a big tomato", "zest a pie"]
    assert frequent_words(texts, 2) == ["tomato", "cut"]
    assert word_counts(texts, 3) == {"tomato": 4, "cut": 2, "big": 1}
    assert frequent_words(texts, 10) == ["tomato", "cut", "big", "cheese", "pie", "zest"], "ties go by alphabet"
    assert not STOP_WORDS & set(frequent_words(texts, 10))
    with pytest.raises(ValueError, match="no content words"):
        frequent_words(["now you take it", "42 7"], 5)


def test_twelve_templates_one_after_the_other():
    texts = prompt_texts(["oil", "salt", "bowl"])
    assert len(texts) == 12 * 3 and len(set(TEMPLATES)) == 12
    assert texts[:4] == ["A footage of a oil.", "A footage of a salt.", "A footage of a bowl.", "A footage of the oil."]
    assert texts[-1] == "A video footage of one bowl." and "A portrait of one salt." in texts
    assert prompt_texts(["oil", "salt"], "one") == ["A video of a oil.", "A video of a salt."]
    with pytest.raises(ValueError, match='prompts=\'all\': expected "averaged" or "one"'):
        prompt_texts(["oil"], "all")


@pytest.mark.parametrize("rows, columns", [(4, 4), (14, 14), (2, 2), (6, 9)])
def test_boxes_cover_a_third_to_a_half(rows, columns):
    rng = np.random.default_rng(0)
    regions = [random_region(rng, rows, columns) for _ in range(400)]
    for region in regions:
        high, wide = region.any(axis=1), region.any(axis=0)
        assert region.sum() == high.sum() * wide.sum(), "a box without holes"
        assert (np.diff(np.flatnonzero(high)) == 1).all() and (np.diff(np.flatnonzero(wide)) == 1).all()
        assert 0.3 <= region.mean() <= 0.5 and 0.3 <= high.sum() / wide.sum() <= 1 / 0.3
    assert np.mean(regions, axis=0).min() > 0, "every patch is in some box"
    assert len({region.tobytes() for region in regions}) > 3
    again = random_region(np.random.default_rng(5), rows, columns)
    assert np.array_equal(again, random_region(np.random.default_rng(5), rows, columns))


def test_a_grid_without_such_a_box_is_refused():
    with pytest.raises(ValueError, match="1 x 1 patches has no box of 30 to 50 %: take smaller patches"):
        random_region(np.random.default_rng(0), 1, 1)
