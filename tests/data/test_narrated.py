"""A million videos cost little, what cannot be used is counted, what was extracted in two ways is refused."""

import os
import pickle
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest

from thesis_lib.data.captions import Captions
from thesis_lib.data.narrated import NarratedVideos, left_out, load_videos


def captions(*rows):
    starts, ends, texts = zip(*rows, strict=True)
    return Captions(np.array(starts, float), np.array(ends, float), list(texts))


def save(folder, count, dim=8, unit=False, first=0, seconds=10, dtype=np.float16):
    rng = np.random.default_rng(first)
    for number in range(first, first + count):
        vectors = rng.standard_normal((seconds, dim))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) if unit else 1
        np.save(folder / f"v{number}.npy", vectors.astype(dtype))


def said(count):
    return {f"v{number}": captions((1, 3, "cut")) for number in range(count)}


def test_load_counts_what_it_leaves_out(tmp_path):
    said = {name: captions((1, 3, "cut"), (9, 12, "late"), (20, 22, "after the end")) for name in "abcdef"}
    said["e"] = captions((30, 31, "outside"))
    for name, vectors in {"a": np.ones((10, 4)), "b": np.ones((1, 4)), "c": np.ones(7), "e": np.ones((10, 4))}.items():
        np.save(tmp_path / f"{name}.npy", vectors.astype(np.float32))
    np.save(tmp_path / "f.npy", np.full((5, 4), np.nan))
    videos, skipped = load_videos(tmp_path, said, min_seconds=2)
    assert [video.name for video in videos] == ["a"]
    left = {reason: names for reason, names in skipped.items() if names}
    assert left == {"no features": ["d"], "broken features": ["c", "f"], "short": ["b"], "no captions": ["e"]}
    assert videos[0].captions.texts == ["cut", "late"] and videos[0].captions.ends.tolist() == [3, 10]
    assert isinstance(videos[0].features, np.memmap)
    with pytest.raises(ValueError, match="not one usable.*1 no features"):
        load_videos(tmp_path, said, names=["d"])


def test_one_video(tmp_path):
    save(tmp_path, 3)
    videos, skipped = load_videos(tmp_path, said(3))
    assert len(videos) == 3 and list(videos.seconds) == [10, 10, 10] and not any(skipped.values())
    np.testing.assert_array_equal(videos[1].features, np.load(tmp_path / "v1.npy"))
    assert [video.name for video in videos] == ["v0", "v1", "v2"] and videos.captions(2).texts == ["cut"]
    assert videos.only(["v2", "v0"]).names.tolist() == ["v0", "v2"]
    again = pickle.loads(pickle.dumps(videos))  # as a worker process gets it
    np.testing.assert_array_equal(again[1].features, videos[1].features)


def test_files_are_open_only_while_they_are_read(tmp_path):
    save(tmp_path, 50)
    videos, _ = load_videos(tmp_path, said(50))
    clips = [np.array(videos[index].features[:2]) for index in range(50)]
    open_maps = open(f"/proc/{os.getpid()}/maps").read().count(str(tmp_path))
    assert len(clips) == 50 and open_maps == 0


@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_features_of_one_kind_pass(tmp_path, unit, dtype):
    save(tmp_path, 20, dim=512, unit=unit, dtype=dtype)
    vectors = np.load(tmp_path / "v3.npy")
    vectors[4] = 0  # an empty second has no length
    np.save(tmp_path / "v3.npy", vectors)
    assert len(load_videos(tmp_path, said(20))[0]) == 20


def test_two_widths_are_refused_by_name(tmp_path):
    save(tmp_path, 30, dim=16)
    save(tmp_path, 2, dim=8, first=30)
    with pytest.raises(ValueError, match=r"D = 16 in 30 videos but D = 8 in 2 \(v30, v31\)"):
        load_videos(tmp_path, said(32), sample=1)


def test_normalised_with_others_is_refused_by_name(tmp_path):
    save(tmp_path, 30, unit=True)
    save(tmp_path, 5, first=30)
    with pytest.raises(ValueError, match=r"length one in 30 videos but .* any length in 5 \(v30, v31, v32, \.\.\.\)"):
        load_videos(tmp_path, said(35))


def test_vectors_beyond_the_sample_are_not_looked_at(tmp_path):
    """They are when a batch is made of them: see the tests of tracks."""
    save(tmp_path, 9)
    np.save(tmp_path / "v3.npy", np.full((10, 8), np.inf, np.float16))
    assert len(load_videos(tmp_path, said(9), sample=2)[0]) == 9  # the first and the last
    assert len(load_videos(tmp_path, said(9), sample=9)[0]) == 8


def test_the_line_that_says_what_was_left_out():
    skipped = {"no features": [f"v{k}" for k in range(1500)], "short": ["a"], "no captions": []}
    assert left_out(skipped) == "1,500 no features (v0, v1, v2, ...), 1 short (a)"


class Everything(Mapping):
    """Features and captions of any number of videos."""

    one = captions((1, 3, "cut"))

    def __init__(self, names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def __iter__(self):
        return iter(self.names)

    def __getitem__(self, name):
        return self.one

    def shape(self, name):
        return 300, 512

    def open(self, name):
        return np.ones((2, 512), np.float32)


def test_a_video_costs_48_bytes():
    names = [f"{number:011d}" for number in range(20_000)]
    source = Everything(names)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        videos, _ = load_videos(source, source, names)
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert isinstance(videos, NarratedVideos) and used < 60 * len(names)
