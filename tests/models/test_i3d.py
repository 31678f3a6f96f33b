"""Both I3D networks against the official code at full size, and what the small one promises."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.models.i3d import DENSE_REACH, I3DR50, InceptionI3D
from thesis_lib.models.official import load_official


def load(kind, weights, folder, **constructor):
    path = folder / f"{kind}.pt"
    torch.save(weights, path)
    return load_official(kind, path, **constructor)


@pytest.fixture(scope="module")
def r50(golden):
    return golden.load("i3d_r50/case_a")


@pytest.fixture(scope="module")
def official_r50(r50, tmp_path_factory):
    return load("i3d_r50", {"model_state": r50.weights(), "cfg": "x"}, tmp_path_factory.mktemp("r50"), head="window")


def test_r50_has_a_place_for_every_released_tensor(official_r50, r50):
    model, report = official_r50
    assert report.matched == list(r50.weights()) and len(report.matched) == 320
    assert sum(parameter.numel() for parameter in model.parameters()) == 28_043_472
    assert model.features_dim == 2048 and "torchvision" not in sys.modules


def test_r50_features_equal_the_official(official_r50, r50, golden):
    model = official_r50[0]
    for name, heads in {"t21s64": ["adaptive"], "t10s193x225": ["adaptive", "window"]}.items():
        (item,) = (item for item in r50.spec["items"] if item["name"] == name)
        clip = golden.clip(item["shape"], item["seed"], item["low"], item["high"])
        for model.head in heads:
            with torch.inference_mode():
                ours = model(clip)
            official = r50.arrays[f"{name}/{'adaptive' if model.head == 'adaptive' else 'avg4x7x7'}"]
            assert golden.deviation(ours, official) < 1e-5


def test_heads_differ_where_the_map_is_larger_than_a_window(r50, golden):
    assert golden.deviation(r50.arrays["t10s193x225/adaptive"], r50.arrays["t10s193x225/avg4x7x7"]) > 1e-2


def test_r50_logits_equal_the_official_whatever_the_head(official_r50, r50, golden):
    (item,) = (item for item in r50.spec["items"] if item["name"] == "t8s224")
    clip = golden.clip(item["shape"], item["seed"], item["low"], item["high"])
    official_r50[0].head = "adaptive"
    with torch.inference_mode():
        assert golden.deviation(official_r50[0].logits(clip), r50.arrays["t8s224/logits"]) < 1e-5


def test_small_r50_reads_small_clips():
    model = I3DR50(stem_dim=4, num_classes=5)
    clip = torch.rand(2, 3, 21, 48, 48)
    assert model(clip).shape == (2, model.features_dim) == (2, 128)
    assert torch.allclose(model.eval().logits(clip), model.blocks[-1].proj(model(clip)), atol=1e-6)


def test_r50_says_what_is_wrong():
    with pytest.raises(ValueError, match='head is "adaptive" or "window"'):
        I3DR50(head="max")
    with pytest.raises(ValueError, match="needs 8 frames of 193 pixels or more"):
        I3DR50(head="window", stem_dim=4)(torch.rand(1, 3, 21, 48, 48))


@pytest.fixture
def lively():
    """A small R50 in double precision whose every layer counts: built anew, each residual block ends in a norm of 0."""
    torch.manual_seed(0)
    model = I3DR50(stem_dim=2).eval().double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)
    return model


def noise(count, side=40, seed=1):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("window", [8, 20, 21])
def test_dense_is_the_map_of_the_whole_video_averaged_by_hand(lively, window):
    """The video and the video without its first frame through the trunk; windows too near to the ends left out."""
    frames = noise(64)
    with torch.inference_mode():
        dense = lively.dense(frames, window)
        maps = [lively.feature_map(frames[phase:].transpose(0, 1)[None])[0] for phase in (0, 1)]
    assert dense.shape == (64 - window + 1, lively.features_dim)
    starts = range(DENSE_REACH + 2, 64 - window - DENSE_REACH)
    for start in starts:
        part = maps[start % 2][:, start // 2 : start // 2 + window // 2]
        torch.testing.assert_close(dense[start], part.mean(dim=(1, 2, 3)))
    assert len(starts) > 4


def test_dense_with_the_head_in_windows(lively):
    lively.float().head = "window"
    frames = noise(58, side=225)[..., :193].float()
    with torch.inference_mode():
        dense = lively.dense(frames)
        maps = [lively.feature_map(frames[phase:].transpose(0, 1)[None]) for phase in (0, 1)]
    assert maps[0].shape[3:] == (8, 7)
    for start in (19, 20):
        part = maps[start % 2][:, :, start // 2 : start // 2 + 10]
        torch.testing.assert_close(dense[start], F.avg_pool3d(part, (4, 7, 7), 1).mean(dim=(2, 3, 4))[0])
    with pytest.raises(ValueError, match="needs 8 frames of 193 pixels or more"):
        lively.dense(noise(30).float())


@pytest.mark.parametrize("window", [2, 9, 20, 21])
def test_dense_equals_windows_where_no_layer_has_a_depth_in_time(lively, window):
    for module in lively.modules():
        if isinstance(module, nn.Conv3d) and (depth := module.kernel_size[0]) > 1:
            module.weight.data[:, :, [tap for tap in range(depth) if tap != depth // 2]] = 0
    frames = noise(30)
    with torch.inference_mode():
        alone = torch.cat([lively(frames[s : s + window].transpose(0, 1)[None]) for s in range(31 - window)])
        torch.testing.assert_close(lively.dense(frames, window), alone)


@pytest.mark.parametrize("window", [20, 21])
def test_dense_reaches_as_far_as_it_says(lively, window):
    """A frame DENSE_REACH beside a window still changes its vector, the next one does not."""
    frames, start = noise(66), 22
    outside = [start - 1, start + window]
    changed = {}
    with torch.inference_mode():
        vector = lively.dense(frames, window)[start]
        for side, first in zip((-1, 1), outside, strict=True):
            for distance in (DENSE_REACH - 1 - (side > 0) * (window % 2), DENSE_REACH):
                other = frames.clone()
                other[first + side * distance] += 1
                changed[side, distance] = not torch.equal(lively.dense(other, window)[start], vector)
    assert all(changed[key] == (key[1] < DENSE_REACH) for key in changed) and len(changed) == 4


def test_dense_is_near_the_windows_and_does_not_depend_on_where_they_lie(lively):
    """Two moving squares: what dense changes is small beside what tells frames apart, and follows the video in time."""
    frames = torch.zeros(90, 3, 40, 40, dtype=torch.float64)
    for t in range(90):
        frames[t, 0, 5:15, t % 30 : t % 30 + 10] = 2
        frames[t, 1, t // 3 : t // 3 + 10, 20:30] = -2
    with torch.inference_mode():
        dense, exact = lively.dense(frames), lively.windows(frames)
        shifted = lively.dense(frames[13:])
    torch.testing.assert_close(shifted[DENSE_REACH:], dense[13 + DENSE_REACH :])
    assert (dense - exact).norm() < 0.1 * exact.norm()
    assert F.cosine_similarity(dense, exact).min() > 0.99
    assert (dense - exact).abs().max() > 1e-3  # it is an approximation: borders of windows do count


def test_dense_wants_two_frames(lively):
    with pytest.raises(ValueError, match="window=1"):
        lively.dense(noise(5), window=1)


@pytest.fixture(scope="module")
def inception(golden):
    return golden.load("i3d_inception/case_a")


STREAMS = [("manifest.json", "rgb_t9s64", 12_697_264), ("manifest_flow.json", "flow_t16s193", 12_675_312)]


@pytest.mark.parametrize("manifest, case, parameters", STREAMS, ids=["rgb", "flow"])
def test_inception_equals_the_official(inception, golden, tmp_path, manifest, case, parameters):
    model, report = load("i3d_inception", inception.weights(manifest), tmp_path)
    assert len(report.matched) == 344 and sum(p.numel() for p in model.parameters()) == parameters
    (item,) = (item for item in inception.spec["items"] if item["name"] == case)
    clip = golden.clip(item["shape"], item["seed"], item["low"], item["high"])
    official = {key: inception.arrays[f"{case}/{key}"] for key in item["what"]}
    with torch.inference_mode():
        if "mixed_5c" in official:
            assert golden.deviation(model.feature_map(clip)[:, ::8], official["mixed_5c"]) < 2e-5
            assert golden.deviation(model(clip), inception.arrays[f"{case}/mixed_5c_mean"]) < 2e-5
        else:
            assert golden.deviation(model(clip), official["features"].mean((2, 3, 4))) < 2e-5
            assert golden.deviation(model.logits(clip), official["logits"]) < 2e-5


def test_inception_files_of_early_torch_lack_batch_counts(tmp_path):
    weights = {n: x for n, x in InceptionI3D(num_classes=7).state_dict().items() if "num_batches" not in n}
    model, report = load("i3d_inception", weights, tmp_path)
    assert len(report.missing) == 57 and all(name.endswith("num_batches_tracked") for name in report.missing)
    assert model._modules["logits"].conv3d.out_channels == 7
