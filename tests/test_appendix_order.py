"""Order sensitivity of the systems of the appendix: which are asked, and what is asked of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from thesis_lib import appendix, clip_stages, methods, params, stages


class Mean(torch.nn.Module):
    """The mean frame, small."""

    frames, size = 4, 16

    def features(self, clips):
        return clips.mean(dim=2)[:, :, ::4, ::4].flatten(1)


@pytest.fixture
def p(monkeypatch):
    monkeypatch.setattr(params, "notebooks", lambda: ["01_data_audit", "A3_svitt"])
    monkeypatch.setattr(stages, "vocabulary", lambda p: None)
    monkeypatch.setattr(clip_stages, "weights", lambda profile, name: None)
    monkeypatch.setattr(methods, "load", lambda name, weights, vocab: Mean())
    return SimpleNamespace(profile="smoke", seed=0)


def test_systems_without_a_notebook_are_not_asked(p, monkeypatch):
    assert appendix.there() == ["svitt", "svitt_ego"]
    monkeypatch.setattr(appendix, "order_accuracies", lambda p, name, split: (0.5 + len(name) / 100, 0.25))
    found = appendix.shuffled_accuracies(p, 1)
    assert found["method"].tolist() == ["SViTT"] * 2 + ["SViTT-Ego"] * 2
    assert found["frames"].tolist() == ["in order", "shuffled"] * 2
    assert found["accuracy"].tolist() == [0.55, 0.25, 0.59, 0.25]


def test_a_mean_of_frames_is_blind_and_one_that_sees_motion_is_not(p):
    def motion(clips):
        return ((clips[:, :, 1:] - clips[:, :, :-1]) * clips[:, :, 1:]).flatten(1)

    found = appendix.order_probes(p, {"motion": motion}, count=120).set_index(["method", "task"])
    for title in ("SViTT", "SViTT-Ego"):
        assert np.allclose(found.loc[title, "sensitivity"], 0)
        assert found.loc[(title, "appearance"), "ordered"] > 0.9 and found.loc[(title, "order"), "ordered"] < 0.75
    assert found.loc[("motion", "order"), "ordered"] > 0.8 and found.loc[("motion", "order"), "sensitivity"] > 0.2
