"""Whole corpora to features with the small networks, and what their folder then holds."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.conftest import load as golden
from thesis_lib import features
from thesis_lib.data.flow import optical_flow
from thesis_lib.data.text import S3DWords
from thesis_lib.data.video import read_frames, write_video
from thesis_lib.extraction import s3d_features
from thesis_lib.models.i3d import I3DR50
from thesis_lib.models.official import load_official
from thesis_lib.models.s3d import S3D
from thesis_lib.training import s3d

PROTOCOL = dict(backbone="r50", flow="tvl1", window=5, size=16, color="rgb", head="adaptive", mode="exact")
PROTOCOL |= dict(padding="grey", last_frame="seen", precision="fp32")
I3D = PROTOCOL | dict(batch_size=8, device="cpu")
CLIPS = dict(frames=8, size=16, output="video_embedding", normalise=False, precision="fp32", batch_size=2, device="cpu")
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


def test_switches_reach_the_network(root, i3d_weights, tmp_path):
    vectors = []
    switches = ({}, {"color": "bgr"}, {"window": 9}, {"padding": "black"}, {"last_frame": "unseen"}, {"size": 8})
    for number, changed in enumerate(switches):
        (folder := tmp_path / str(number)).mkdir()
        features.extract_i3d(folder, root=root, weights=i3d_weights, **I3D | changed)
        vectors.append(np.load(folder / "a.npy"))
    assert all(not np.allclose(vectors[0], other) for other in vectors[1:])


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
    for backbone in ("inception", "two_stream"):
        with pytest.raises(ValueError, match="enough"):
            features.extract_i3d(tmp_path, root=root, weights=tmp_path / "released.pth", **I3D | {"backbone": backbone})
    assert asked[2:] == [("i3d_inception", "released.pth", {"in_channels": 3})] * 2


def described(folder):
    return json.loads((folder / "features.json").read_text())


def test_i3d_folders_say_what_was_done(root, i3d_weights, tmp_path):
    features.extract_i3d(tmp_path, root=root, weights=i3d_weights, **I3D)
    found = described(tmp_path)
    digest = hashlib.sha256((i3d_weights / "weights.pt").read_bytes()).hexdigest()
    expected = {
        "model": "i3d_r50",
        "weights_sha256": digest,
        "window": 5,
        "size": 16,
        "color": "rgb",
        "head": "adaptive",
    }
    expected |= {"mode": "exact", "padding": "grey", "last_frame": "seen", "precision": "fp32", "fps": 8.0}
    expected |= {"output": "features [D, T], one vector a frame", "normalised": False}
    assert expected.items() <= found.items() and found["flow"] is None and "thesis_lib" in found["version"]


@pytest.mark.parametrize("output, width", [("video_embedding", 12), ("mixed_5c", 1024 // 16)])
@pytest.mark.parametrize("normalise", [False, True])
def test_s3d_gives_either_output_at_either_length_and_says_so(root, s3d_weights, tmp_path, output, width, normalise):
    about = CLIPS | {"output": output, "normalise": normalise}
    features.extract_s3d(tmp_path, root=root, weights=s3d_weights, num_videos=1, **about)
    vectors = np.load(tmp_path / "a.npy")
    assert vectors.shape == (3, width) and normalise == np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    found = described(tmp_path)
    assert found["output"] == f"{output} [seconds, D], one vector a second" and found["normalised"] == normalise
    assert (found["fps"], found["window"], found["model"]) == (1, 8, "s3d")


def test_unknown_settings_are_said_before_any_video(root, i3d_weights, s3d_weights, tmp_path):
    """An error in a video leaves the video out: an error in the settings must not pass for one."""
    wrong = {"color": "grb", "padding": "zeros", "last_frame": "no", "flow": "brox", "head": "max", "backbone": "r101"}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name}='{value}': choose one of "):
            features.extract_i3d(tmp_path, root=root, weights=i3d_weights, **I3D | {name: value})
    with pytest.raises(ValueError, match="extraction_precision='half': choose one of auto, fp32, bf16, fp16"):
        features.extract_i3d(tmp_path, root=root, weights=i3d_weights, **I3D | {"precision": "half"})
    with pytest.raises(ValueError, match="s3d_output='fc': choose one of video_embedding, mixed_5c"):
        features.extract_s3d(tmp_path, root=root, weights=s3d_weights, **CLIPS | {"output": "fc"})
    for changed in ({"head": "window"}, {"mode": "dense"}):
        with pytest.raises(ValueError, match="head and i3d_mode are of r50"):
            features.extract_i3d(tmp_path, root=root, weights=i3d_weights, **I3D | changed | {"backbone": "inception"})
    assert not list(tmp_path.iterdir())


def test_precision_follows_the_device_where_it_is_auto(monkeypatch):
    assert features.precision_on("auto", "cpu") == "fp32" and features.precision_on("bf16", "cpu") == "bf16"
    assert features.precision_on("auto", "cuda") == "fp16"


def test_processes_take_the_gpus_in_turn(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for share in range(4):
        features.use_gpu(share)
    assert taken == [0, 1, 2, 0]


@pytest.fixture(scope="module")
def inceptions(tmp_path_factory):
    """The two released files of the Inception I3D, in their layout and at their size, filled by name."""
    folder, official = tmp_path_factory.mktemp("inception"), golden("i3d_inception/case_a")
    for name, manifest in (("rgb", "manifest.json"), ("flow", "manifest_flow.json")):
        torch.save(official.weights(manifest), folder / f"{name}_imagenet.pt")
    return folder


def test_two_streams_of_the_released_networks(root, inceptions, tmp_path):
    """Through the function of the stage: [2048, T], colours first, each half what its network gives alone."""
    given = dict(root=root, weights=inceptions / "rgb_imagenet.pt", batch_size=8, device="cpu")
    two = dict(flow_weights=inceptions / "flow_imagenet.pt", **given)
    (tmp_path / "two").mkdir()
    features.extract_i3d(tmp_path / "two", **two, **PROTOCOL | {"backbone": "two_stream", "flow": "dis"})
    found = np.load(tmp_path / "two/a.npy")
    assert found.shape == (2048, 17) and found.dtype == np.float32
    features.extract_i3d(tmp_path / "one", **given, **PROTOCOL | {"backbone": "inception"})
    np.testing.assert_allclose(found[:1024], np.load(tmp_path / "one/a.npy"), rtol=1e-4, atol=1e-5)

    frames = np.stack([frame for _, frame in read_frames(root / "videos/a.avi")])
    flow = torch.from_numpy(optical_flow(frames, "dis")).permute(3, 0, 1, 2)
    network = load_official("i3d_inception", inceptions / "flow_imagenet.pt")[0]
    with torch.inference_mode():
        centre = network(flow[None, :, 6:11])[0].numpy()  # the window of frame 8
    np.testing.assert_allclose(found[1024:, 8], centre, rtol=1e-4, atol=1e-5)

    about = described(tmp_path / "two")
    digest = hashlib.sha256((inceptions / "flow_imagenet.pt").read_bytes()).hexdigest()
    assert about["model"] == "i3d_two_stream" and about["flow"] == "dis" and about["flow_weights_sha256"] == digest
    assert described(tmp_path / "one")["flow_weights_sha256"] is None


def test_files_of_the_wrong_stream_are_named(root, inceptions, tmp_path):
    swapped = dict(weights=inceptions / "flow_imagenet.pt", flow_weights=inceptions / "rgb_imagenet.pt")
    with pytest.raises(ValueError, match="flow_imagenet.pt: in_channels=3 was asked for, the file has in_channels=2"):
        features.extract_i3d(tmp_path, root=root, **swapped, **I3D | {"backbone": "two_stream"})
