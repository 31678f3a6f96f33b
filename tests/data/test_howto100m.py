"""Narrated videos: the csv, the split, nearest captions, lag and chatter."""

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


@given(st.lists(st.sampled_from("aaaaabbbcd"), min_size=2, max_size=60), st.data())
def test_split_gives_each_category_its_share_rounded(categories, data):
    names = [f"v{k}" for k in range(len(categories))]
    size = data.draw(st.integers(1, len(names) - 1))
    train, val = howto100m.train_val_split(metadata(names, categories), names, size, seed=data.draw(st.integers(0, 9)))
    assert len(val) == size and set(train).isdisjoint(val)
    assert [name for name in names if name in val] == val and [name for name in names if name in train] == train
    for category in set(categories):
        share = categories.count(category) * size / len(names)
        found = sum(categories[int(name[1:])] == category for name in val)
        assert abs(found - share) < 1


def test_split_takes_both_categories():
    names = [f"v{k}" for k in range(400)]
    table = metadata(names, ["Food"] * 400)
    table["category_2"] = ["Soup", "Bread"] * 200
    _, val = howto100m.train_val_split(table, names, val_size=40)
    assert sum(int(name[1:]) % 2 for name in val) == 20


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
