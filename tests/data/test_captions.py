"""raw_caption.json piece by piece equals the whole parsed at once; broken files are refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thesis_lib.data import captions

ENTRIES = st.dictionaries(
    st.text(max_size=8),
    st.lists(st.tuples(st.floats(0, 99), st.floats(0, 9), st.text(max_size=9) | st.just(float("nan"))), max_size=4),
    max_size=6,
)


@given(ENTRIES, st.sampled_from([None, 2]), st.booleans(), st.integers(20, 200))
def test_pieces_of_any_size_give_the_same(tmp_path_factory, entries, indent, ascii_only, piece):
    raw = {
        name: {"start": [a for a, *_ in rows], "end": [a + b for a, b, _ in rows], "text": [t for *_, t in rows]}
        for name, rows in entries.items()
    }
    path = tmp_path_factory.mktemp("json") / "raw_caption.json"
    text = json.dumps(raw, indent=indent, ensure_ascii=ascii_only)
    path.write_text(text, encoding="utf-8")
    found = dict(captions.iterate_captions(path, max(piece, len(text) // 4)))
    assert list(found) == list(raw)
    for name, said in found.items():
        whole = captions._captions(json.loads(text)[name])
        assert list(said.texts) == whole.texts and np.array_equal(said.starts, whole.starts)


@pytest.mark.parametrize(
    "content", ["", '{"a": {"start": [], "end": [], "text": []}', '{"a" 1}', '{"a": 3}', "nonsense"]
)
def test_what_is_no_caption_file(tmp_path, content):
    (tmp_path / "raw_caption.json").write_text(content)
    with pytest.raises(ValueError, match=r"raw_caption\.json: expected"):
        captions.read_captions(tmp_path / "raw_caption.json")


def test_read_captions_sorts_and_drops_what_is_no_text(tmp_path):
    raw = {
        "a": {
            "start": [5.0, 1, 2, 3, 9],
            "end": [6, 2, 3, 4, 8],
            "text": ["later", "first", float("nan"), "  ", "back"],
        },
        "b": {"start": [], "end": [], "text": []},
    }
    (tmp_path / "raw_caption.json").write_text(json.dumps(raw))
    read = captions.read_captions(tmp_path / "raw_caption.json")
    assert read["a"].texts == ["first", "later"] and read["a"].starts.tolist() == [1, 5]
    assert read["a"].ends.tolist() == [2, 6] and len(read["b"]) == 0


@pytest.mark.parametrize(
    "content", ["[1, 2]", "{", '{"a": {"start": [1]}}', '{"a": {"start": [1], "end": [], "text": []}}']
)
def test_broken_captions(tmp_path, content):
    (tmp_path / "raw_caption.json").write_text(content)
    with pytest.raises(ValueError, match=r"raw_caption\.json: expected"):
        captions.read_captions(tmp_path / "raw_caption.json")
    with pytest.raises(ValueError, match="no such file"):
        captions.read_captions(tmp_path / "nowhere.json")


def test_a_broken_file_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "raw_caption.json"
    path.write_text('{"a": {"start": [' + "1," * 100_000)
    with pytest.raises(ValueError, match="after") as error:
        dict(captions.iterate_captions(path, piece=64))
    assert len(str(error.value)) < 500


@given(st.lists(st.floats(0, 20), max_size=10), st.integers(1, 20))
def test_within(starts, seconds):
    starts = np.sort(np.array(starts, float))
    tokens = [np.array([k]) for k in range(len(starts))]
    said = captions.Captions(starts, starts + 3, [str(k) for k in range(len(starts))], tokens).within(seconds)
    count = int((starts < seconds).sum())
    assert len(said) == count == len(said.texts) == len(said.tokens)
    assert (said.ends <= seconds).all() and np.array_equal(said.ends, np.minimum(starts[:count] + 3, seconds))
