"""Frames are shuffled within each clip and nowhere else, in another order for each clip."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from thesis_lib import clip_stages, methods, params, shuffling, stages
from thesis_lib.shuffling import Shuffled


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
    return SimpleNamespace(profile="smoke", seed=0)


def test_systems_without_a_notebook_are_not_asked(p, monkeypatch):
    assert methods.there() == ["svitt", "svitt_ego"]
    monkeypatch.setattr(shuffling, "of_frames", lambda p, name, split: (0.5 + len(name) / 100, 0.25))
    monkeypatch.setattr(params, "load", lambda notebook, profile: p)
    monkeypatch.setattr(shuffling, "of_videoclip", lambda p, split: (0.7, 0.6))
    found = shuffling.shuffled_accuracies(p, 1)
    assert found["method"].tolist() == ["VideoCLIP"] * 2 + ["SViTT"] * 2 + ["SViTT-Ego"] * 2
    assert found["frames"].tolist() == ["in order", "shuffled"] * 3
    assert found["accuracy"].tolist() == [0.7, 0.6, 0.55, 0.25, 0.59, 0.25]


def test_a_mean_of_frames_is_blind_and_one_that_sees_motion_is_not(p):
    def motion(clips):
        return ((clips[:, :, 1:] - clips[:, :, :-1]) * clips[:, :, 1:]).flatten(1)

    found = shuffling.order_probes(p, {"motion": motion}, count=120).set_index(["method", "task"])
    for title in ("SViTT", "SViTT-Ego"):
        assert np.allclose(found.loc[title, "sensitivity"], 0)
        assert found.loc[(title, "appearance"), "ordered"] > 0.9 and found.loc[(title, "order"), "ordered"] < 0.75
    assert found.loc[("motion", "order"), "ordered"] > 0.8 and found.loc[("motion", "order"), "sensitivity"] > 0.2
