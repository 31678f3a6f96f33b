"""Shards written as MMPT writes them; a meta file that would run code is refused."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest

from thesis_lib.data import mmpt_shards
from thesis_lib.data.narrated import load_videos

SHARD = 4  # videos, instead of 4096


def save_ragged(path, rows):
    np.save(f"{path}_data.npy", np.concatenate(rows))
    np.save(f"{path}_starts.npy", np.cumsum([0, *map(len, rows)]))


@pytest.fixture
def corpus(tmp_path):
    """Folder, prefix, features of each video and its (start, end, ids)."""
    rng = np.random.default_rng(0)
    features = {f"v{k}": rng.standard_normal((int(rng.integers(5, 20)), 6)).astype(np.float16) for k in range(10)}
    said = {}
    for name, vectors in features.items():
        starts = np.sort(rng.integers(0, len(vectors), 3)).astype(np.float32)
        said[name] = [(s, s + 2, rng.integers(0, 100, rng.integers(1, 32)).tolist()) for s in starts]
    names, prefix = list(features), f"{tmp_path}/raw_caption_dedup.bert-base-uncased."
    meta = {}
    for shard, start in enumerate(range(0, len(names), SHARD)):
        meta[shard] = names[start : start + SHARD]
        save_ragged(tmp_path / f"train_{shard}", [features[name] for name in meta[shard]])
        ids = [np.array([row + [-1] * (32 - len(row)) for *_, row in said[name]], np.int32) for name in meta[shard]]
        save_ragged(f"{prefix}train_{shard}.caps_ids", ids)
        times = [np.array([[a, b] for a, b, _ in said[name]], np.float32) for name in meta[shard]]
        save_ragged(f"{prefix}train_{shard}.startends", times)
    (tmp_path / "train_meta.pkl").write_bytes(pickle.dumps(meta, pickle.HIGHEST_PROTOCOL))
    return tmp_path, prefix, features, said


def test_every_video_is_found_in_its_shard(corpus):
    folder, prefix, features, said = corpus
    shards = mmpt_shards.FeatureShards(folder, "train")
    spoken = mmpt_shards.CaptionShards(shards, prefix)
    assert list(shards) == list(spoken) == list(features) and len(spoken) == 10
    for name, vectors in features.items():
        assert shards.shape(name) == vectors.shape and np.array_equal(shards.open(name), vectors)
        assert isinstance(shards.open(name), np.memmap)
        found = spoken[name]
        assert [t.tolist() for t in found.tokens] == [ids for *_, ids in said[name]] and len(found.texts) == 0
        assert found.starts.tolist() == [a for a, *_ in said[name]]
    with pytest.raises(KeyError):
        shards.shape("v99")


def test_videos_from_shards(corpus):
    folder, prefix, features, said = corpus
    shards = mmpt_shards.FeatureShards(folder, "train")
    names = [*features, "unknown"]
    videos, left = load_videos(shards, mmpt_shards.CaptionShards(shards, prefix), names)
    assert videos.names.tolist() == list(features) and left["no features"] == ["unknown"]
    np.testing.assert_array_equal(videos[7].features[1:4], features["v7"][1:4].astype(np.float32))
    assert videos.captions(7).ends.max() <= len(features["v7"])


@pytest.mark.parametrize(
    "content", [print, {0: print}, OrderedDict(), {0: [np.int64(3)]}, [1, 2], {"a": ["b"]}, {0: [1]}, b"text"]
)
def test_meta_holds_text_and_numbers_alone(tmp_path, content):
    (tmp_path / "train_meta.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="train_meta.pkl"):
        mmpt_shards.read_meta(tmp_path / "train_meta.pkl")


def test_meta_runs_no_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").touch, ()

    (tmp_path / "train_meta.pkl").write_bytes(pickle.dumps({0: [Trap()]}))
    with pytest.raises(ValueError, match="could run code"):
        mmpt_shards.read_meta(tmp_path / "train_meta.pkl")
    assert not (tmp_path / "sprung").exists()


def test_damaged_and_missing_files(corpus):
    folder, *_ = corpus
    meta = (folder / "train_meta.pkl").read_bytes()
    with pytest.raises(ValueError, match="no such file"):
        mmpt_shards.FeatureShards(folder, "val")
    (folder / "train_meta.pkl").write_bytes(meta[:20])
    with pytest.raises(ValueError, match="train_meta.pkl"):
        mmpt_shards.FeatureShards(folder, "train")
    (folder / "train_meta.pkl").write_bytes(pickle.dumps({0: ["v0", "v1"]}))
    with pytest.raises(ValueError, match="4 rows.*2 videos"):
        mmpt_shards.FeatureShards(folder, "train")
    (folder / "train_meta.pkl").write_bytes(pickle.dumps({0: ["v0", "v1", "v2", "v0"]}))
    with pytest.raises(ValueError, match="appears twice"):
        mmpt_shards.FeatureShards(folder, "train")
