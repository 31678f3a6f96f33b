"""Narrated videos: files as they come, usable and unusable ones, the split, nearest captions, lag and chatter."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thesis_lib.data import howto100m
from thesis_lib.data.howto100m import Captions


def captions(*rows):
    starts, ends, texts = zip(*rows, strict=True) if rows else ((), (), ())
    return Captions(np.array(starts, float), np.array(ends, float), list(texts))


def metadata(names, categories):
    return pd.DataFrame({"video_id": names, "category_1": categories, "category_2": "x", "rank": 1, "task_id": 1})


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
    read = howto100m.read_captions(tmp_path / "raw_caption.json")
    assert read["a"].texts == ["first", "later"] and read["a"].starts.tolist() == [1, 5]
    assert read["a"].ends.tolist() == [2, 6] and len(read["b"]) == 0


@pytest.mark.parametrize(
    "content", ["[1, 2]", "{", '{"a": {"start": [1]}}', '{"a": {"start": [1], "end": [], "text": []}}']
)
def test_broken_captions(tmp_path, content):
    (tmp_path / "raw_caption.json").write_text(content)
    with pytest.raises(ValueError, match=r"raw_caption\.json: expected"):
        howto100m.read_captions(tmp_path / "raw_caption.json")
    with pytest.raises(ValueError, match="no such file"):
        howto100m.read_captions(tmp_path / "nowhere.json")


def test_metadata(tmp_path):
    path = tmp_path / "HowTo100M_v1.csv"
    metadata(["007", "b"], ["Food", "Pets"]).to_csv(path, index=False)
    assert howto100m.read_metadata(path)["video_id"].tolist() == ["007", "b"]
    metadata(["b", "b"], ["Food", "Pets"]).to_csv(path, index=False)
    with pytest.raises(ValueError, match="'b' appears twice"):
        howto100m.read_metadata(path)
    metadata(["a"], ["Food"]).drop(columns="rank").to_csv(path, index=False)
    with pytest.raises(ValueError, match="'rank' missing"):
        howto100m.read_metadata(path)


def test_load_counts_what_it_leaves_out(tmp_path):
    said = {name: captions((1, 3, "cut"), (9, 12, "late"), (20, 22, "after the end")) for name in "abcdef"}
    said["e"] = captions((30, 31, "outside"))
    for name, vectors in {"a": np.ones((10, 4)), "b": np.ones((1, 4)), "c": np.ones(7), "e": np.ones((10, 4))}.items():
        np.save(tmp_path / f"{name}.npy", vectors.astype(np.float32))
    np.save(tmp_path / "f.npy", np.full((5, 4), np.nan))
    videos, skipped = howto100m.load_videos(tmp_path, said, min_seconds=2)
    assert [video.name for video in videos] == ["a"]
    assert skipped == {"no features": ["d"], "broken features": ["c", "f"], "short": ["b"], "no captions": ["e"]}
    assert videos[0].captions.texts == ["cut", "late"] and videos[0].captions.ends.tolist() == [3, 10]
    assert isinstance(videos[0].features, np.memmap)
    with pytest.raises(ValueError, match="not one usable.*1 no features"):
        howto100m.load_videos(tmp_path, said, names=["d"])


def test_split_keeps_the_share_of_each_category():
    names = [f"v{k}" for k in range(1000)]
    table = metadata(names, ["Food"] * 700 + ["Pets"] * 200 + ["Cars"] * 99 + ["Rare"])
    train, val = howto100m.train_val_split(table, names, val_size=100)
    assert len(val) == 100 and sorted(train + val) == sorted(names) and not set(train) & set(val)
    shares = table.set_index("video_id").loc[val, "category_1"].value_counts()
    assert (shares["Food"], shares["Pets"]) == (70, 20) and shares["Cars"] in (9, 10)
    assert (train, val) == howto100m.train_val_split(table, names, val_size=100)
    assert val != howto100m.train_val_split(table, names, val_size=100, seed=1)[1]
    assert val != names[: len(val)]


def test_split_of_some_videos_and_of_unlisted_ones():
    table = metadata(["a", "b", "c", "d"], ["Food", "Food", "Pets", "Pets"])
    train, val = howto100m.train_val_split(table, ["d", "a", "unknown"], val_size=1)
    assert sorted(train + val) == ["a", "d", "unknown"]
    with pytest.raises(ValueError, match="val_size=3"):
        howto100m.train_val_split(table, ["d", "a", "b"], val_size=3)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 9)), min_size=1, max_size=12),
    st.floats(0, 110),
    st.integers(1, 15),
)
def test_nearest_captions(spans, time, k):
    starts = np.array(sorted(start for start, _ in spans))
    ends = starts + np.array([length for _, length in spans])
    chosen = howto100m.nearest_captions(starts, ends, time, k)
    distances = np.abs((starts + ends) / 2 - time)
    assert len(chosen) == k and (np.diff(chosen) >= 0).all()
    if k <= len(starts):
        assert len(set(chosen)) == k
        np.testing.assert_allclose(np.sort(distances[chosen]), np.sort(distances)[:k])
    else:
        assert set(chosen) == set(range(len(starts)))


def test_nearest_captions_of_none():
    with pytest.raises(ValueError, match="at least one"):
        howto100m.nearest_captions(np.array([]), np.array([]), 1.0, 3)


def test_audit_finds_lag_and_chatter():
    said = {
        "a": captions(
            (2, 3, "Subscribe!"), (12, 13, "now cut the tomatoes"), (28, 30, "tomato is nice"), (40, 41, "oil")
        ),
        "b": captions(),
    }
    shown = {
        "a": [
            (10.0, 20.0, "cut tomato"),
            (30.0, 35.0, "place tomato"),
            (50.0, 60.0, "add vinegar"),
            (0.0, 9.0, "wait"),
        ],
        "b": [(0.0, 5.0, "cut cheese")],
    }
    tables = howto100m.audit(said, shown)
    assert tables["lags"][["action", "lag_s"]].values.tolist() == [["cut tomato", 2.0], ["place tomato", -2.0]]
    assert tables["chatter"].values.tolist() == [["a", 4, 2, 0.5], ["b", 0, 0, 0.0]]
    assert tables["silent"].values.tolist() == [["a", 3, 1, 1 / 3], ["b", 1, 1, 1.0]]
