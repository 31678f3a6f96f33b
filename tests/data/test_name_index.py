"""Each name is found at its place, no other is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thesis_lib.data.name_index import NameIndex

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@given(st.lists(NAMES, unique=True), NAMES)
def test_finds_what_a_dict_finds(names, other):
    index, truth = NameIndex(names), {name: place for place, name in enumerate(names)}
    assert [index[name] for name in names] == list(range(len(names))) and len(index) == len(names)
    if other in truth:
        assert index[other] == truth[other]
    else:
        with pytest.raises(KeyError):
            index[other]


def test_a_name_stands_once():
    with pytest.raises(ValueError, match="'b' appears twice"):
        NameIndex(["b", "a", "b"])
