"""Frames are shuffled within each clip and nowhere else, in another order for each clip."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from thesis_lib import clip_stages, extraction, features, methods, params, shuffling, stages
from thesis_lib.data.video import read_frames, write_video
from thesis_lib.models.i3d import I3DR50
from thesis_lib.models.s3d import S3D
from thesis_lib.shuffling import Shuffled
from thesis_lib.training import asformer


class Keep(torch.nn.Module):
    def forward(self, clips):
        return clips

    encode_video = mixed_5c = forward


def test_each_clip_keeps_its_frames_in_another_order():
    clips = torch.arange(6 * 3 * 8 * 2 * 2.0).view(6, 3, 8, 2, 2)
    for method in ("__call__", "encode_video", "mixed_5c"):
        mixed = getattr(Shuffled(Keep(), seed=1), method)(clips)
        assert not torch.equal(mixed, clips) and torch.equal(mixed.sort(2).values, clips)
        orders = {tuple((one[0, :, 0, 0] - one[0, :, 0, 0].min()).tolist()) for one in mixed}
        assert len(orders) == 6, "an order of its own for each"
        frames = mixed - mixed[:, :1]
        assert torch.equal(frames, frames[:, :, :1].expand_as(frames)), "colours of a frame stay together"
        assert torch.equal(mixed, getattr(Shuffled(Keep(), seed=1), method)(clips)), "the same for the same seed"


def test_a_mean_over_frames_does_not_notice():
    clips = torch.rand(4, 3, 8, 2, 2, dtype=torch.float64)

    class Mean(torch.nn.Module):
        def forward(self, clips):
            return clips.mean(2)

    torch.testing.assert_close(Shuffled(Mean())(clips), Mean()(clips))


class MeanFrame(torch.nn.Module):
    """The mean frame, small."""

    frames, size = 4, 16

    def features(self, clips):
        return clips.mean(dim=2)[:, :, ::4, ::4].flatten(1)


@pytest.fixture
def p(monkeypatch):
    monkeypatch.setattr(params, "notebooks", lambda: ["01_data_audit", "A3_svitt"])
    monkeypatch.setattr(stages, "vocabulary", lambda p: None)
    monkeypatch.setattr(clip_stages, "weights", lambda profile, name: None)
    monkeypatch.setattr(methods, "load", lambda name, weights, vocab: MeanFrame())
    return SimpleNamespace(profile="smoke", seed=0, device="cpu")


def test_systems_without_a_notebook_are_not_asked(p, monkeypatch):
    assert methods.there() == ["svitt", "svitt_ego"]
    monkeypatch.setattr(shuffling, "of_frames", lambda p, name, split: (0.5 + len(name) / 100, 0.25))
    monkeypatch.setattr(params, "load", lambda notebook, profile: p)
    monkeypatch.setattr(shuffling, "of_asformer", lambda p, split: (0.9, 0.8))
    monkeypatch.setattr(shuffling, "of_videoclip", lambda p, split: (0.7, 0.6))
    found = shuffling.shuffled_accuracies(p, 1)
    assert found["method"].tolist() == ["ASFormer"] * 2 + ["VideoCLIP"] * 2 + ["SViTT"] * 2 + ["SViTT-Ego"] * 2
    assert found["frames"].tolist() == ["in order", "shuffled"] * 4
    assert found["accuracy"].tolist() == [0.9, 0.8, 0.7, 0.6, 0.55, 0.25, 0.59, 0.25]


def test_a_mean_of_frames_is_blind_and_one_that_sees_motion_is_not(p, monkeypatch):
    monkeypatch.setattr(shuffling, "networks", lambda p: {})

    def motion(clips):
        return ((clips[:, :, 1:] - clips[:, :, :-1]) * clips[:, :, 1:]).flatten(1)

    found = shuffling.order_probes(p, {"motion": motion}, count=120).set_index(["method", "task"])
    for title in ("SViTT", "SViTT-Ego"):
        assert np.allclose(found.loc[title, "sensitivity"], 0)
        assert found.loc[(title, "appearance"), "ordered"] > 0.9 and found.loc[(title, "order"), "ordered"] < 0.75
    assert found.loc[("motion", "order"), "ordered"] > 0.8 and found.loc[("motion", "order"), "sensitivity"] > 0.2


def settings(**changed):
    known = dict(device="cpu", features_root="", i3d_features_root="", s3d_features_root="", i3d_backbone="r50")
    known |= dict(
        head="adaptive",
        color="rgb",
        window=5,
        i3d_size=16,
        s3d_frames=4,
        s3d_size=32,
        s3d_output="mixed_5c",
        s3d_normalise=True,
    )
    return SimpleNamespace(**known | changed)


@pytest.mark.parametrize("color", ["rgb", "bgr"])
def test_what_asformer_and_videoclip_read_is_asked_as_it_is_extracted(monkeypatch, tmp_path, color):
    """The vector of the middle frame of a video of one window, and of its only second."""
    torch.manual_seed(0)
    i3d, s3d = I3DR50(stem_dim=1).eval(), S3D(embed_dim=8, channels_div=16, vocab_size=5).eval()
    p = settings(color=color)
    monkeypatch.setattr(stages, "of", lambda stage, p: p)
    monkeypatch.setattr(stages, "i3d_weights", lambda p: None)
    monkeypatch.setattr(features, "load_i3d", lambda *about: i3d)
    monkeypatch.setattr(shuffling, "_s3d", lambda p: s3d)
    found = shuffling.networks(p)
    assert [(one.frames, one.size) for one in found.values()] == [(5, 16), (4, 32)]
    of_i3d, of_s3d = (one.features for one in found.values())

    def filmed(frames, size):
        path = tmp_path / f"{size}.avi"
        write_video(path, np.random.default_rng(1).integers(0, 255, (frames, size, size, 3), np.uint8), fps=frames)
        shown = np.stack([image for _, image in read_frames(path)])
        return path, torch.from_numpy(shown).float().div(255).permute(3, 0, 1, 2)[None]

    with torch.no_grad():
        path, clip = filmed(5, 16)
        expected = extraction.i3d_features(i3d, path, window=5, color=color)[:, 2]
        torch.testing.assert_close(of_i3d(clip)[0], torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
        path, clip = filmed(4, 32)
        expected = extraction.s3d_features(s3d, path, frames_per_clip=4, output="mixed_5c", normalise=True)[0]
        torch.testing.assert_close(of_s3d(clip)[0], torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
    assert not shuffling.networks(settings(features_root="there", s3d_features_root="here")), "vectors from elsewhere"
    assert list(shuffling.networks(settings(i3d_backbone="two_stream"))) == ["VideoCLIP's S3D"], "flow is no frames"


def test_vectors_stay_within_their_second():
    order = shuffling.within_seconds(23, 4.0, np.random.default_rng(0))
    assert sorted(order) == list(range(23)) and not np.array_equal(order, np.arange(23))
    assert np.array_equal(order // 4, np.arange(23) // 4)
    assert np.array_equal(shuffling.within_seconds(9, 1.0, np.random.default_rng(0)), np.arange(9))


@pytest.mark.parametrize("standardise", [True, False])
def test_asformer_in_order_is_the_run_itself(tmp_path, monkeypatch, standardise):
    """With one vector a second there is nothing to shuffle."""
    rng, root, folder = np.random.default_rng(0), tmp_path / "salads", tmp_path / "run"
    for path in (root / "groundTruth", root / "splits", tmp_path / "features", folder):
        path.mkdir(parents=True)
    (root / "mapping.txt").write_text("0 cut\n1 mix\n")
    for number in range(6):
        labels = np.repeat(rng.permutation([0, 1, 0, 1]), 12)
        vectors = np.eye(2)[labels] + rng.normal(scale=0.4, size=(48, 2))
        np.save(tmp_path / f"features/v{number}.npy", vectors.T.astype(np.float32))
        (root / f"groundTruth/v{number}.txt").write_text("".join(f"{('cut', 'mix')[k]}\n" for k in labels))
    for part, videos in {"train": range(4), "test": (4, 5)}.items():
        (root / f"splits/{part}.split1.bundle").write_text("".join(f"v{v}.txt\n" for v in videos))
    sizes = dict(num_layers=2, num_decoders=1, num_f_maps=8, sample_rate=2, standardise=standardise)
    about = dict(features=tmp_path / "features", root=root, split=1, fps=6.0, lr=1e-2, num_epochs=24, device="cpu")
    asformer.train(folder, **about, **sizes)
    monkeypatch.setattr(stages, "baseline", lambda p, split: folder)
    monkeypatch.setattr(stages, "salads", lambda p: root)
    monkeypatch.setattr(stages, "asformer_features", lambda p: tmp_path / "features")
    p = SimpleNamespace(**sizes, attention_window="centred", feature_rate=0.0, device="cpu")
    last = pd.read_csv(folder / "history.csv")["accuracy"].iloc[-1]
    monkeypatch.setattr(stages, "fps", lambda p: 6.0)
    in_order, shuffled = shuffling.of_asformer(p, 1)
    assert in_order == pytest.approx(last) and 0.5 < last and shuffled != in_order
    monkeypatch.setattr(stages, "fps", lambda p: 1.0)
    assert shuffling.of_asformer(p, 1) == (pytest.approx(last), pytest.approx(last))
