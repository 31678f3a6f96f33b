"""Both I3D networks against the official code at full size, and what the small one promises."""

import sys

import pytest
import torch

from thesis_lib.models.i3d import I3DR50, InceptionI3D
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
