"""Whole corpora to features with the small networks, and what their folder then holds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from thesis_lib import features
from thesis_lib.data.text import S3DWords
from thesis_lib.data.video import write_video
from thesis_lib.extraction import s3d_features
from thesis_lib.models.i3d import I3DR50
from thesis_lib.models.s3d import S3D
from thesis_lib.training import s3d

I3D = dict(window=5, size=16, color="rgb", head="adaptive", mode="exact", batch_size=8, device="cpu")
CLIPS = dict(frames=8, size=16, normalise=False, batch_size=2, device="cpu")
LENGTHS = {"a": 17, "b": 24}  # frames, 8 a second


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    (root / "videos").mkdir()
    rng = np.random.default_rng(0)
    for name, length in LENGTHS.items():
        write_video(root / f"videos/{name}.avi", rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8), fps=8)
    (root / "videos/notes.txt").write_text("no video")
    return root


def save(folder, model, config):
    folder.mkdir()
    torch.save(model.state_dict(), folder / "weights.pt")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def i3d_weights(tmp_path_factory):
    torch.manual_seed(0)
    config = {"stem_dim": 2, "num_classes": 3}
    return save(tmp_path_factory.mktemp("weights") / "i3d", I3DR50(**config), {"model": config})


@pytest.fixture(scope="module")
def s3d_weights(tmp_path_factory):
    torch.manual_seed(0)
    words = S3DWords.of(["cut tomato"])
    config = dict(embed_dim=12, channels_div=16, vocab_size=len(words) + 1, word_dim=8, text_hidden=8)
    about = {"model": config, "words": words.words, "size": 16}
    return save(tmp_path_factory.mktemp("weights") / "s3d", S3D(**config), about)


def test_videos_are_found_by_name_and_nothing_else_is(root, tmp_path):
    assert [path.name for path in features.videos_of(root)] == ["a.avi", "b.avi"]
    for empty in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ValueError, match=r"videos: no \.avi, \.mp4, \.mkv, \.mov, \.webm file there"):
            features.videos_of(empty)


def test_i3d_gives_a_column_a_frame(root, i3d_weights, tmp_path):
    features.extract_i3d(tmp_path, root=root, weights=i3d_weights, **I3D)
    found = {path.stem: np.load(path) for path in tmp_path.glob("*.npy")}
    assert {name: vectors.shape for name, vectors in found.items()} == {name: (64, n) for name, n in LENGTHS.items()}
    assert all(v.dtype == np.float32 and np.isfinite(v).all() and v.std(axis=1).max() > 0 for v in found.values())


def test_colour_and_window_reach_the_network(root, i3d_weights, tmp_path):
    vectors = []
    for number, changed in enumerate(({}, {"color": "bgr"}, {"window": 9})):
        (folder := tmp_path / str(number)).mkdir()
        features.extract_i3d(folder, root=root, weights=i3d_weights, **I3D | changed)
        vectors.append(np.load(folder / "a.npy"))
    assert not np.allclose(vectors[0], vectors[1]) and not np.allclose(vectors[0], vectors[2])


def test_s3d_gives_a_row_a_second(root, s3d_weights, tmp_path):
    features.extract_s3d(tmp_path, root=root, weights=s3d_weights, **CLIPS)
    found = {path.stem: np.load(path) for path in tmp_path.glob("*.npy")}
    assert {name: vectors.shape for name, vectors in found.items()} == {"a": (3, 12), "b": (3, 12)}, "seconds begun"
    model, _, size = s3d.load(s3d_weights)
    alone = s3d_features(model, root / "videos/a.avi", frames_per_clip=8, size=size)
    np.testing.assert_allclose(found["a"], alone, rtol=1e-4, atol=1e-5)


def test_the_first_videos_alone_and_vectors_of_unit_length(root, s3d_weights, tmp_path):
    features.extract_s3d(tmp_path, root=root, weights=s3d_weights, num_videos=1, **CLIPS | {"normalise": True})
    assert [path.name for path in tmp_path.glob("*.npy")] == ["a.npy"]
    np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / "a.npy"), axis=1), 1, rtol=1e-5)


def test_what_a_killed_extraction_left_is_kept(root, s3d_weights, tmp_path):
    kept = np.full((3, 12), 7, np.float32)
    np.save(tmp_path / "a.npy", kept)
    before = (tmp_path / "a.npy").stat().st_mtime_ns
    features.extract_s3d(tmp_path, root=root, weights=s3d_weights, **CLIPS)
    assert (tmp_path / "a.npy").stat().st_mtime_ns == before and np.array_equal(np.load(tmp_path / "a.npy"), kept)
    assert np.load(tmp_path / "b.npy").shape == (3, 12)


def test_a_video_that_cannot_be_read_is_left_out_by_name(root, s3d_weights, tmp_path, capsys):
    (tmp_path / "corpus/videos").mkdir(parents=True)
    (tmp_path / "corpus/videos/a.avi").write_bytes((root / "videos/a.avi").read_bytes())
    (tmp_path / "corpus/videos/z.avi").write_bytes(b"no video at all")
    (out := tmp_path / "out").mkdir()
    features.extract_s3d(out, root=tmp_path / "corpus", weights=s3d_weights, **CLIPS)
    assert [path.name for path in out.glob("*.npy")] == ["a.npy"]
    assert "z: left out" in capsys.readouterr().out


def test_weights_given_as_a_file_are_read_as_released_ones(root, tmp_path, monkeypatch):
    """The extractors themselves need no released file here: what they ask the reader for is the question."""
    asked = []

    def reader(kind, path, **how):
        asked.append((kind, Path(path).name, how))
        raise ValueError("enough")

    monkeypatch.setattr(features, "load_official", reader)
    (tmp_path / "released.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="enough"):
        features.extract_i3d(tmp_path, root=root, weights=tmp_path / "released.pth", **I3D | {"head": "window"})
    with pytest.raises(ValueError, match="enough"):
        features.extract_s3d(tmp_path, root=root, weights=tmp_path / "released.pth", **CLIPS)
    assert asked == [("i3d_r50", "released.pth", {"head": "window"}), ("s3d_howto100m", "released.pth", {})]
