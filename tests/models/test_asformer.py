"""ASFormer against the official code, against attention over all pairs of frames, and one video at a time."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.losses import segmentation_loss
from thesis_lib.models.asformer import ASFormer, attend, make_windows
from thesis_lib.models.official import load_official

OFFICIAL = {"official": "legacy", "centred": "fixed"}


@pytest.fixture(scope="module", params=["case_small_a", "case_a"])
def released(request, golden, tmp_path_factory):
    """A case, and a function that loads its weights from a file as they were released."""
    case = golden.load(f"asformer/{request.param}")
    path = tmp_path_factory.mktemp("asformer") / "epoch-120.model"
    torch.save(case.weights(), path)
    return case, lambda window: load_official("asformer", path, window=window)


def small(window="centred", **sizes):
    torch.manual_seed(0)
    sizes = {"num_classes": 5, "input_dim": 6, "num_layers": 6, "num_decoders": 2, "num_f_maps": 8} | sizes
    return ASFormer(window=window, **sizes).eval()


def forwards(case):
    return [item for item in case.spec["items"] if item["what"] == "forward"]


def test_every_released_tensor_has_its_place(released):
    case, load = released
    model, report = load("official")
    full = case.spec["manifest"] == "manifest.json"
    assert report.matched == list(model.state_dict()) == list(case.weights())
    assert not report.dropped and not report.missing and not report.unexpected
    assert len(report.matched) == (496 if full else 256)
    assert sum(parameter.numel() for parameter in model.parameters()) == (1_134_476 if full else 33_548)


def test_official_window_equals_the_official_code_stage_by_stage(released, golden):
    case, load = released
    model = load("official")[0]
    for item in forwards(case):
        with torch.inference_mode():
            ours = model(golden.ramp((1, model.encoder.conv_1x1.in_channels, item["T"]), item["seed"]))[:, 0]
        official = {key.split("/")[1]: case.arrays[key] for key in case.arrays if key.startswith(f"{item['name']}/")}
        for stage, expected in zip(ours, official["legacy"], strict=True):
            tolerance = 1e-4 if item["T"] >= 16 else 1e-3
            assert golden.deviation(stage[:, torch.from_numpy(official["t"])], expected) < tolerance
        sure = official["legacy_sure"].astype(bool)
        assert (ours.argmax(dim=1).numpy() == official["legacy_argmax"])[sure].all()


def test_centred_window_is_the_official_fix_up_to_its_soft_mask(released, golden):
    """The fix lets every masked frame keep 1e-6 of its weight; ours none. A wrong window differs ten times as much."""
    case, load = released
    model = load("centred")[0]
    for item in forwards(case):
        with torch.inference_mode():
            ours = model(golden.ramp((1, model.encoder.conv_1x1.in_channels, item["T"]), item["seed"]))[:, 0]
        ours = ours[:, :, torch.from_numpy(case.arrays[f"{item['name']}/t"])].numpy()
        for stage, fixed, legacy in zip(
            ours, case.arrays[f"{item['name']}/fixed"], case.arrays[f"{item['name']}/legacy"], strict=True
        ):
            norm = np.linalg.norm(fixed)
            assert np.linalg.norm(stage - fixed) / norm < 2e-2
            assert np.linalg.norm(stage - legacy) / norm > 0.02 + 5 * np.linalg.norm(stage - fixed) / norm


@pytest.mark.parametrize("window, tolerance", [("official", 1e-4), ("centred", 2e-2)])
def test_loss_gradients_and_training_curve_equal_the_official(golden, tmp_path, window, tolerance):
    case = golden.load("asformer/case_small_a")
    torch.save(case.weights(), tmp_path / "epoch-120.model")
    model = load_official("asformer", tmp_path / "epoch-120.model", window=window)[0]
    (item,) = (item for item in case.spec["items"] if item["what"] == "loss")
    x, labels = golden.ramp((1, 32, item["T"]), item["seed"]), torch.tensor([item["labels"]])
    official = {name: case.arrays[f"loss90/{OFFICIAL[window]}_{name}"] for name in ("loss", "loss_curve")}
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, weight_decay=1e-5)
    curve = []
    for step in range(item["epochs"]):
        loss = segmentation_loss(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            norms = [parameter.grad.norm() for parameter in model.parameters()]
            expected = case.arrays[f"loss90/{OFFICIAL[window]}_grad_norm_tensors"]
            known = ~np.isnan(expected)
            assert golden.deviation(torch.stack(norms)[torch.from_numpy(known)], expected[known]) < tolerance
        optimizer.step()
        curve.append(loss.item())
    assert golden.deviation(curve[0], official["loss"]) < tolerance
    assert golden.deviation(curve, official["loss_curve"]) < 10 * tolerance


def every_pair(query, key, value, d, kind):
    """Attention of one video from the definition, a full matrix of frames: query, key [T, C], value [T, V]."""
    length, half = len(query), d // 2
    frame = torch.arange(length)
    if kind == "centred":
        offset = frame[None] - frame[:, None]
        inside = (offset >= -half) & (offset < d - half)
        scores = (query @ key.T / query.shape[1] ** 0.5).masked_fill(~inside, -torch.inf)
        return scores.softmax(dim=1) @ value
    first = frame // d * d - half  # of the window of each frame
    there = torch.arange(-half, length + 2 * d)  # frames, also those before and after the video
    padded_key, padded_value = (F.pad(x, (0, 0, half, 2 * d)) for x in (key, value))
    column = there[None] - first[:, None]
    read = (column >= 0) & (column < d + 2 * half)
    counted = read & (column < max(1, d + 2 * half - 1)) & (there >= 0) & (there < length)
    scores = query @ padded_key.T / query.shape[1] ** 0.5 + torch.log(counted + 1e-6)
    weights = scores.masked_fill(~read, -torch.inf).softmax(dim=1) * counted
    return weights @ padded_value


@pytest.mark.parametrize("kind", ["centred", "official"])
@pytest.mark.parametrize("d", [1, 2, 4, 16, 64, 256])
@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 128, 150, 512, 600])
def test_windows_equal_attention_over_all_pairs(kind, d, length):
    torch.manual_seed(length)
    tensors = [torch.randn(1, length, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    ours = attend(*tensors, make_windows(kind, d, torch.empty(1, 1, length, dtype=torch.float64), None))
    expected = every_pair(*(x[0] for x in tensors), d, kind)[None]
    assert torch.allclose(ours, expected, atol=1e-12)
    upstream = torch.randn_like(expected)
    gradients = (torch.autograd.grad(result, tensors, upstream) for result in (ours, expected))
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("kind", ["centred", "official"])
def test_each_video_of_a_batch_gets_what_it_gets_alone(kind):
    model = small(kind).double()
    lengths = [130, 77, 33, 5, 1]
    x = torch.randn(len(lengths), 6, 130, dtype=torch.float64)  # noise behind the end too: it must not matter
    mask = torch.arange(130) < torch.tensor(lengths)[:, None]
    together = model(x, mask)
    for row, length in enumerate(lengths):
        alone = model(x[row : row + 1, :, :length])
        # A ReLU or a variance near 0 magnifies rounding where a video has a few frames only.
        assert torch.allclose(together[:, row : row + 1, :, :length], alone, atol=1e-9 if length > 5 else 1e-6)
        assert not together[:, row, :, length:].any()
    together.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_one_frame_has_no_spread_and_one_key(golden):
    logits = small()(torch.randn(2, 6, 1))
    assert logits.shape == (3, 2, 5, 1) and logits.isfinite().all()


def test_long_videos_give_the_same_gradients_as_short_ones(monkeypatch):
    from thesis_lib.models import asformer

    x, gradients = torch.randn(1, 6, 100), []
    for limit in (1, 1000):
        monkeypatch.setattr(asformer, "LONG", limit)
        model = small()
        model(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True) if a is not None)


def test_training_drops_whole_feature_channels():
    model, seen = small(input_dim=400).train(), []
    model.encoder.conv_1x1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(torch.ones(2, 400, 50))
    assert torch.equal(seen[0][:, :, :1].expand(-1, -1, 50), seen[0])  # constant over time: dropped or kept throughout
    assert set(seen[0].unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
    assert 0.2 < (seen[0] == 0).float().mean() < 0.4
    assert not torch.equal(seen[0][0], seen[0][1])  # each video for itself


def test_later_decoders_attend_less():
    model = small(num_decoders=3)
    assert [stage.layers[0].alpha for stage in model.decoders] == pytest.approx([1, 0.0497871, 0.0024788], abs=1e-6)
    assert isinstance(model.decoders[2].layers[5].dropout, nn.Dropout)


def test_unknown_window_is_refused():
    with pytest.raises(ValueError, match='"centred" or "official", not \'fixed\''):
        small("fixed")
