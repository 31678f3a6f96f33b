"""S3D against the official code at full size, and what its small versions promise."""

import pytest
import torch

from thesis_lib.models.official import load_official
from thesis_lib.models.s3d import S3D

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def case(golden):
    return golden.load("s3d_howto100m/case_a")


@pytest.fixture(scope="module")
def official(case, tmp_path_factory):
    path = tmp_path_factory.mktemp("s3d") / "s3d_howto100m.pth"
    torch.save(case.weights(), path)
    return load_official("s3d_howto100m", path)


@pytest.fixture
def small():
    torch.manual_seed(0)
    return S3D(embed_dim=16, channels_div=8, vocab_size=20, word_dim=6, text_hidden=10).eval()


def test_every_released_tensor_has_its_place(official, case):
    model, report = official
    assert report.matched == list(case.weights()) and len(report.matched) == 537
    assert not report.dropped and not report.missing and not report.unexpected
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_211_336


@pytest.mark.parametrize("name", ["t8s64", "b2t4s32x48", "t16s96"])
def test_video_equals_the_official(official, case, golden, name):
    item = next(item for item in case.spec["items"] if item["name"] == name)
    with torch.inference_mode():
        features = official[0].mixed_5c(video := golden.clip(item["shape"], item["seed"], 0, 1))
        embedding = official[0].encode_video(video)
    assert golden.deviation(features, case.arrays[f"{name}/mixed_5c"]) < TOLERANCE
    assert golden.deviation(embedding, case.arrays[f"{name}/video_embedding"]) < TOLERANCE


def test_text_equals_the_official_with_padding_in_the_maximum(official, case, golden):
    with torch.inference_mode():
        ours = official[0].encode_text(torch.from_numpy(case.arrays["text/ids"]).long())
    assert golden.deviation(ours, case.arrays["text/text_embedding"]) < TOLERANCE


def test_word_order_does_not_matter_but_padding_does(small):
    ids = torch.tensor([[3, 5, 7, 0], [7, 3, 5, 0], [3, 5, 7, 7]])
    first, permuted, unpadded = small.encode_text(ids)
    assert torch.allclose(first, permuted) and not torch.allclose(first, unpadded)


@pytest.mark.parametrize("space_to_depth", [True, False])
def test_small_network(space_to_depth):
    model = S3D(embed_dim=16, channels_div=8, space_to_depth=space_to_depth, vocab_size=20, word_dim=6, text_hidden=10)
    clip = torch.rand(2, 3, 8, 48, 48)
    video, text = model(clip, torch.ones(4, 16, dtype=torch.long))
    assert model.features_dim == 128 and model.mixed_5c(clip).shape == (2, 128)
    assert video.shape == (2, 16) and text.shape == (4, 16)
    (video.sum() + text.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_odd_sizes_are_refused(small):
    with pytest.raises(ValueError, match=r"even frames, height and width, not \(7, 48, 48\)"):
        small.encode_video(torch.rand(1, 3, 7, 48, 48))


def test_pooled_features_project_to_the_embedding(small):
    clips = torch.rand(3, 3, 8, 48, 48)
    embedding = small.encode_video(clips)
    pooled = small.mixed_5c(clips)
    assert torch.equal(small.project(pooled), embedding)
    seconds = small.project(pooled[None].expand(2, -1, -1), normalise=True)  # as in files: [videos, seconds, values]
    torch.testing.assert_close(seconds[1], embedding / embedding.norm(dim=1, keepdim=True))


def test_mil_nce_checkpoint_without_space_to_depth(tmp_path):
    model = S3D(embed_dim=16, channels_div=8, space_to_depth=False, vocab_size=20, word_dim=6, text_hidden=10).eval()
    weights = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": weights, "optimizer": {}, "scheduler": {}}, tmp_path / "milnce.pth.tar")
    loaded, report = load_official("s3d_howto100m", tmp_path / "milnce.pth.tar")
    clip, ids = torch.rand(1, 3, 7, 33, 40), torch.ones(1, 16, dtype=torch.long)
    assert weights["module.conv1.conv1.weight"].shape == (64 // 8, 3, 3, 7, 7)
    assert not loaded.space_to_depth and len(report.matched) == 537 and not report.missing and not report.unexpected
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(loaded(clip, ids), model(clip, ids), strict=True))
