"""Entities that regions of a video are asked about: words of the captions, texts around them, boxes on the patch grid.

ALPRO takes the 1000 most frequent nouns of its captions, found by a tagger. Here they are the most frequent words of
three letters or more that are not among STOP_WORDS: verbs come along, which a box of moving hands may show as well.
Li et al., Align and Prompt (ALPRO), CVPR 2022, section 3.2.2 and appendix; salesforce/ALPRO
src/pretrain/run_pretrain_sparse.py:326-342 (templates) and src/datasets/dataset_pretrain_sparse.py:277-313 (boxes).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

TEMPLATES = tuple(
    f"A {kind} of {article} {{}}."
    for kind in ("footage", "video", "portrait", "video footage")
    for article in ("a", "the", "one")
)
ONE_TEMPLATE = ("A video of a {}.",)
STOP_WORDS = frozenset(
    "about after all and any are back but can for from get give going good has have here his how into its just keep "
    "know let like look looks make more not now off one onto our out over really see she some take than thank that the "
    "them then there these they think this too very want was well what when will with you your".split()
)
SHARE, RATIO = (0.3, 0.5), (0.3, 1 / 0.3)  # of a box: its share of the frame, its height over its width


def frequent_words(texts: Iterable[str], count: int) -> list[str]:
    """The `count` most frequent content words of texts, most frequent first, equally frequent ones by alphabet."""
    return [*word_counts(texts, count)]


def word_counts(texts: Iterable[str], count: int) -> dict[str, int]:
    """How often texts say each of their `frequent_words`, in their order."""
    found = Counter(word for text in texts for word in re.findall(r"[^\W\d_]{3,}", text.lower()))
    words = sorted(found.keys() - STOP_WORDS, key=lambda word: (-found[word], word))[:count]
    if not words:
        raise ValueError("the captions have no content words: there are no entities to ask about")
    return {word: found[word] for word in words}


def prompt_texts(entities: Sequence[str], prompts: str = "averaged") -> list[str]:
    """All entities in the first template, then in the second; prompts: "averaged" for all 12, "one" for one of them."""
    if prompts not in ("averaged", "one"):
        raise ValueError(f'prompts={prompts!r}: expected "averaged" or "one"')
    templates = TEMPLATES if prompts == "averaged" else ONE_TEMPLATE
    return [template.format(entity) for template in templates for entity in entities]


def random_region(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """[rows, columns] bool: a random box of patches that covers 30 to 50 % of them, True within.

    All such shapes are equally likely. The released code rounds the sides down after it drew them, so that its boxes
    may be smaller.
    """
    shapes = [
        (height, width)
        for height in range(1, rows + 1)
        for width in range(1, columns + 1)
        if SHARE[0] <= height * width / (rows * columns) <= SHARE[1] and RATIO[0] <= height / width <= RATIO[1]
    ]
    if not shapes:
        raise ValueError(f"a frame of {rows} x {columns} patches has no box of 30 to 50 %: take smaller patches")
    height, width = shapes[rng.integers(len(shapes))]
    top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
    region = np.zeros((rows, columns), dtype=bool)
    region[top : top + height, left : left + width] = True
    return region
