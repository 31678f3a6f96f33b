"""What goes into the store comes out of it, as text or as word pieces."""

import json
from functools import partial

import numpy as np
import pytest

from thesis_lib.data.caption_cleanup import cut
from thesis_lib.data.caption_store import CaptionStore, write_store
from thesis_lib.data.captions import read_captions
from thesis_lib.data.narrated import load_videos
from thesis_lib.data.text import Vocabulary, write_vocab


@pytest.fixture
def raw(tmp_path):
    words = ["cut", "tomato", "cheese", "naïve", "Öl"]
    rng = np.random.default_rng(0)
    entries = {}
    for number in rng.permutation(40):
        starts = np.sort(rng.uniform(0, 60, number % 7)).round(2)
        texts = [" ".join(rng.choice(words, 3)) for _ in starts]
        entries[f"video{number}"] = {"start": starts.tolist(), "end": (starts + 4).tolist(), "text": texts}
    path = tmp_path / "raw_caption.json"
    path.write_text(json.dumps(entries))
    return path


def test_store_equals_the_file(tmp_path, raw):
    assert write_store(raw, tmp_path / "captions") == 40
    store, truth = CaptionStore(tmp_path / "captions"), read_captions(raw)
    assert list(store) == list(truth) and "video3" in store and "video" not in store and store.get("video") is None
    for name, said in truth.items():
        assert list(store[name].texts) == said.texts and store[name].tokens is None
        np.testing.assert_allclose(store[name].starts, said.starts, rtol=1e-6)
        np.testing.assert_allclose(store[name].ends, said.ends, rtol=1e-6)
        assert list(store[name].within(30).texts) == said.within(30).texts


def test_clean_and_encode(tmp_path, raw):
    truth = read_captions(raw)
    write_vocab(tmp_path / "vocab.txt", [text for said in truth.values() for text in said.texts])
    vocabulary = Vocabulary(tmp_path / "vocab.txt")
    encode = partial(vocabulary.pieces_of, max_tokens=2)
    write_store(raw, tmp_path / "captions", [partial(cut, characters=5)], encode)
    store = CaptionStore(tmp_path / "captions")
    for name, said in truth.items():
        pieces = vocabulary.pieces_of([text[:5] for text in said.texts], 2)
        assert [ids.tolist() for ids in store[name].tokens] == pieces and len(store[name].texts) == 0


def test_videos_from_a_store(tmp_path, raw):
    write_store(raw, tmp_path / "captions")
    store, truth = CaptionStore(tmp_path / "captions"), read_captions(raw)
    for name in truth:
        np.save(tmp_path / f"{name}.npy", np.ones((30, 4), np.float16))
    found, left = load_videos(tmp_path, store)
    expected, also_left = load_videos(tmp_path, truth)
    assert found.names.tolist() == expected.names.tolist() and left == also_left and left["no captions"]
    for index in range(len(found)):
        assert list(found.captions(index).texts) == expected.captions(index).texts


def test_a_store_that_is_none(tmp_path, raw):
    with pytest.raises(ValueError, match="no names.npy"):
        CaptionStore(tmp_path)
    write_store(raw, tmp_path / "captions")
    np.save(tmp_path / "captions/names.npy", np.array(["a"]))
    with pytest.raises(ValueError, match="belong together"):
        CaptionStore(tmp_path / "captions")
    raw.write_text('{"a": {"start": []}}')
    with pytest.raises(ValueError, match="expected"):
        write_store(raw, tmp_path / "captions")
    with pytest.raises(ValueError, match="no names.npy"):  # half of a store does not open
        CaptionStore(tmp_path / "captions")
