"""VideoMAE against the official numbers and transformers, and what its authors claim for it."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from thesis_lib.masking import masks
from thesis_lib.models import videomae
from thesis_lib.models.official import load_official
from thesis_lib.models.videomae import VideoMAE, to_clip, to_cubes

CLOSE, CLOSE_GRADIENT = 5e-6, 2e-5
HEADS = {"num_attention_heads": 4, "decoder_num_attention_heads": 3}  # of the small cases
GOLDEN = Path(__file__).parents[1] / "golden/videomae"


def released(weights):
    """The wrapper of released files."""
    return {"model": weights, "optimizer": {}, "epoch": 3, "scaler": {}, "args": argparse.Namespace(mask_ratio=0.9)}


@pytest.fixture
def official(golden, tmp_path):
    """A function: a case -> the case, the model with its weights and the load report."""

    def load(name, wrap=released, **constructor):
        case, path = golden.load(f"videomae/{name}"), tmp_path / "checkpoint.pth"
        torch.save(wrap(case.weights()), path)
        return case, *load_official("videomae", path, **constructor)

    return load


@pytest.fixture
def small():
    """A small model of random weights, and a clip of 64 cubes."""
    torch.manual_seed(0)
    sizes = dict(patch_size=8, hidden_size=24, num_hidden_layers=2, num_attention_heads=3)
    model = VideoMAE(**sizes, decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2).eval()
    return model, torch.randn(3, 3, 8, 32, 32)


def tube(count, ratio=0.75, grid=(4, 4, 4), kind="tube", seed=0):
    return torch.from_numpy(masks(kind, grid, ratio, np.random.default_rng(seed), count))


# -- official numbers ------------------------------------------------------------------------------------------------


def agrees(golden, case, model):
    """Holds a model against a case of pretraining; gives the loss."""
    spec, arrays = case.spec, case.arrays
    clip, mask = 2 * golden.ramp(spec["shape"], spec["seed"]), torch.from_numpy(arrays["in_mask"])
    tokens, prediction = model.encode(clip, mask), model.reconstruct(clip, mask)
    normalised, raw = model.targets(clip, mask), model.targets(clip, mask, normalise=False)
    loss = mse_loss(prediction, normalised)
    part = (slice(None), slice(None, None, spec["tok_stride"]), slice(None, None, spec["dec_stride"]))
    assert golden.deviation(tokens[..., :: spec["enc_stride"]], arrays["out_encoder"]) < CLOSE
    assert golden.deviation(prediction[part], arrays["out_prediction"]) < CLOSE
    assert golden.deviation(normalised[part], arrays["out_target_norm"]) < CLOSE
    assert golden.deviation(raw[part], arrays["out_target_raw"]) < CLOSE
    assert golden.deviation(loss, arrays["out_loss_norm"]) < CLOSE
    assert golden.deviation(mse_loss(prediction, raw), arrays["out_loss_raw"]) < CLOSE
    return loss


def test_pretraining_equals_the_official_gradients_included(official, golden):
    case, model, report = official("case_a", **HEADS)
    assert report.matched == list(case.weights())
    assert not (report.dropped + report.missing + report.unexpected)
    agrees(golden, case, model).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert golden.deviation(norm, case.arrays["out_grad_norm_total"]) < CLOSE_GRADIENT
    for name in case.spec["grads"]:
        assert golden.deviation(gradients[name], case.arrays[f"out_grad:{name}"]) < CLOSE_GRADIENT


@torch.inference_mode()
def test_the_base_model_equals_the_official(golden):
    case = golden.load("videomae/base_a")
    with torch.device("meta"):
        model = VideoMAE()
    model.load_state_dict(case.weights(), assign=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == 94_210_944
    agrees(golden, case, model)


WRAPPED = {
    "released": released,
    "module": lambda weights: {"module": weights, "epoch": 3},
    "bare": lambda weights: weights,
    "encoder": lambda weights: {"model": {f"encoder.{name}": value for name, value in weights.items()}},
    "backbone": lambda weights: {"module": {f"backbone.{name}": value for name, value in weights.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_a_fine_tuned_model_equals_the_official_however_it_is_wrapped(official, golden, wrap):
    case, model, report = official("finetune_a", WRAPPED[wrap], num_attention_heads=4)
    assert report.matched == list(case.weights())
    assert not (report.dropped + report.missing + report.unexpected)
    clip = 2 * golden.ramp(case.spec["shape"], case.spec["seed"])
    with torch.inference_mode():
        assert golden.deviation(model(clip), case.arrays["out_pooled"]) < CLOSE
        assert golden.deviation(model.logits(clip), case.arrays["out_logits"]) < CLOSE


def test_every_tensor_of_the_fine_tuned_base_model_has_its_place():
    with torch.device("meta"):
        ours = VideoMAE(num_classes=400).state_dict()
    theirs = json.loads((GOLDEN / "manifest_finetune_base.json").read_text())
    assert {name: [list(value.shape), "float32"] for name, value in ours.items()} == theirs and len(ours) == 162


def test_files_of_another_kind_or_layout(official, golden, tmp_path):
    _, model, _ = official("case_a", **HEADS)
    with pytest.raises(ValueError, match="no classifier, its weights are of pretraining"):
        model.logits(torch.zeros(1, 3, 16, 32, 32))
    _, model, _ = official("finetune_a", num_attention_heads=4)
    with pytest.raises(ValueError, match="no decoder, its weights are fine-tuned"):
        model.reconstruct(torch.zeros(1, 3, 16, 32, 32), tube(1, grid=(8, 4, 4)))
    with pytest.raises(ValueError, match="hidden_size=48 does not tell the number of heads: num_attention_heads="):
        official("case_a")
    with pytest.raises(ValueError, match="decoder_hidden_size=24 does not tell the number of heads: decoder_num_att"):
        official("case_a", num_attention_heads=4)
    with pytest.raises(ValueError, match="hidden_size 48 is no multiple of num_attention_heads 5"):
        official("finetune_a", num_attention_heads=5)

    def without(*names):
        return lambda weights: {name: value for name, value in weights.items() if not re.search("|".join(names), name)}

    with pytest.raises(ValueError, match="not a complete videomae: 43 tensors, lacks head.weight"):
        official("finetune_a", without(r"^head\."), num_attention_heads=4)
    with pytest.raises(ValueError, match="not a complete videomae: lacks encoder.blocks.1.attn.q_bias"):
        official("case_a", without(r"encoder.blocks.1.attn.q_bias"), **HEADS)
    path = tmp_path / "asformer.pt"
    torch.save(golden.load("asformer/case_small_a").weights(), path)
    with pytest.raises(ValueError, match="not videomae: 256 tensors: looks like asformer"):
        load_official("videomae", path)
    case = golden.load("videomae/case_a")
    torch.save(released(case.weights()), path)
    with pytest.raises(ValueError, match="not asformer: 75 tensors in 'model': looks like videomae"):
        load_official("asformer", path)


# -- transformers ----------------------------------------------------------------------------------------------------


def renamed(weights):
    """Names of transformers for the official ones."""
    rules = {
        r"^encoder\.patch_embed\.proj|^patch_embed\.proj": "videomae.embeddings.patch_embeddings.projection",
        r"^encoder\.norm": "videomae.layernorm",
        r"^decoder\.blocks": "decoder.decoder_layers",
        r"^encoder\.blocks|^blocks": "videomae.encoder.layer",
        r"attn\.proj": "attention.output.dense",
        r"attn\.q_bias": "attention.attention.query.bias",
        r"attn\.v_bias": "attention.attention.value.bias",
        r"norm1": "layernorm_before",
        r"norm2": "layernorm_after",
        r"mlp\.fc1": "intermediate.dense",
        r"mlp\.fc2": "output.dense",
        r"^head": "classifier",
    }
    found = {}
    for name, value in weights.items():
        for pattern, replacement in rules.items():
            name = re.sub(pattern, replacement, name)
        if "qkv" in name:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            found |= {name.replace("attn.qkv", f"attention.attention.{part}"): rows for part, rows in parts}
        else:
            found[name] = value
    return found


@pytest.mark.parametrize("case", ["case_a", "finetune_a"])
def test_transformers_computes_the_same(official, case):
    transformers = pytest.importorskip("transformers")
    constructor = HEADS if case == "case_a" else {"num_attention_heads": 4}
    _, model, _ = official(case, **constructor)
    sizes = dict(image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=3, num_attention_heads=4)
    sizes |= dict(intermediate_size=192, decoder_num_attention_heads=3, decoder_hidden_size=24)
    sizes |= dict(decoder_num_hidden_layers=2, decoder_intermediate_size=96, layer_norm_eps=1e-6)
    config = transformers.VideoMAEConfig(**sizes, num_labels=5, use_mean_pooling=case == "finetune_a")
    kind = "VideoMAEForPreTraining" if case == "case_a" else "VideoMAEForVideoClassification"
    theirs = getattr(transformers, kind)(config).eval()
    theirs.load_state_dict(renamed(model.state_dict()))
    clip = torch.randn(2, 3, 16, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if case == "finetune_a":
            theirs.fc_norm.eps = 1e-6  # as official; theirs is 1e-5
            expected = theirs(clip.transpose(1, 2)).logits
            torch.testing.assert_close(model.logits(clip), expected, atol=2e-6, rtol=0)
            return
        theirs.decoder.norm.eps = 1e-6
        mask = tube(2, 0.9, (8, 4, 4), "random")
        expected = theirs(clip.transpose(1, 2), mask)
        prediction = model.reconstruct(clip, mask)
        torch.testing.assert_close(prediction, expected.logits, atol=5e-6, rtol=0)
        torch.testing.assert_close(mse_loss(prediction, model.targets(clip, mask)), expected.loss, atol=2e-6, rtol=0)


# -- what its authors claim ------------------------------------------------------------------------------------------


def test_the_encoder_sees_the_visible_tokens_alone(small):
    model, clip = small
    seen = []
    model.encoder.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    with torch.no_grad():
        model.encode(clip, tube(3, 0.9))
        model.reconstruct(clip, tube(3, 0.9))
        model.encode(clip)
    assert seen == [8, 8, 64]


@torch.no_grad()
def test_hidden_pixels_do_not_reach_the_tokens(small):
    """Changed to what no network could bear, they leave every bit as it was; one visible pixel does not."""
    model, clip = small
    mask = tube(3, 0.75, kind="random")
    hidden = to_clip(mask[:, :, None, None].expand(-1, -1, 128, 3), (4, 4, 4), 2, 8)
    before = model.encode(clip, mask)
    assert torch.equal(model.encode(clip.masked_fill(hidden, torch.nan), mask), before)
    assert torch.equal(model.reconstruct(clip.masked_fill(hidden, 1e30), mask), model.reconstruct(clip, mask))
    place = (~hidden).nonzero()[7]
    changed = clip.clone()
    changed[tuple(place)] += 1
    assert not torch.equal(model.encode(changed, mask)[place[0]], before[place[0]])


@torch.no_grad()
def test_hiding_nothing_is_no_mask_and_tokens_keep_their_order(small):
    model, clip = small
    nothing = torch.zeros(3, 64, dtype=torch.bool)
    assert torch.equal(model.encode(clip, nothing), model.encode(clip))
    mask = tube(3, 0.75, kind="random")
    model.encoder.blocks = torch.nn.ModuleList()  # tokens by themselves: those of the full clip, picked out
    torch.testing.assert_close(model.encode(clip, mask).flatten(0, 1), model.encode(clip)[~mask])


@torch.no_grad()
def test_clips_of_a_batch_do_not_meet(small):
    model, clip = small
    mask = tube(3, 0.75, kind="random")
    alone = torch.cat([model.reconstruct(clip[k : k + 1], mask[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(model.reconstruct(clip, mask), alone)
    alone = torch.cat([model.targets(clip[k : k + 1], mask[k : k + 1]) for k in range(3)])
    assert torch.equal(model.targets(clip, mask), alone)


def test_visible_targets_do_not_count(small):
    """The guesses and targets are of hidden cubes alone, so that pixels of visible ones pull at no target."""
    model, clip = small
    mask = tube(3, 0.75, kind="random")
    clip.requires_grad_()
    (gradient,) = torch.autograd.grad(model.targets(clip, mask, normalise=False).sum(), clip)
    assert (to_cubes(gradient, 2, 8).abs().sum((2, 3)).bool() == mask).all()
    assert model.targets(clip, mask).shape == model.reconstruct(clip, mask).shape == (3, 48, 384)


@torch.no_grad()
def test_targets_are_normalised_in_each_cube_and_channel(small):
    model, clip = small
    mask = tube(3)
    cubes = model.targets(clip, mask).unflatten(2, (-1, 3))
    assert cubes.mean(2).abs().max() < 1e-5 and (cubes.std(2) - 1).abs().max() < 1e-4
    scale, shift = (torch.tensor(values).view(3, 1, 1, 1) for values in ((3.0, 0.5, 2.0), (1.0, -2.0, 0.3)))
    torch.testing.assert_close(model.targets(clip * scale + shift, mask), model.targets(clip, mask), atol=2e-5, rtol=0)
    flat = model.targets(torch.ones_like(clip), mask)
    assert flat.abs().max() < 0.2, "a cube of one colour: rounding over the eps, no division by 0"


@torch.no_grad()
def test_raw_targets_are_the_pixels(small):
    """By hand: the cube of moment 1, row 2, column 3; RGB in 0..1, by frame, row, column, channel."""
    model, _ = small
    colours = torch.rand(1, 3, 8, 32, 32)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (videomae.MEAN, videomae.STD))
    mask = torch.zeros(1, 64, dtype=torch.bool)
    mask[0, 1 * 16 + 2 * 4 + 3] = True
    target = model.targets((colours - mean) / std, mask, normalise=False)
    torch.testing.assert_close(target[0, 0], colours[0, :, 2:4, 16:24, 24:32].permute(1, 2, 3, 0).flatten())


def test_cubes_and_clips_are_each_others_inverse():
    clip = torch.randn(2, 3, 6, 12, 20)
    cubes = to_cubes(clip, 3, 4)
    assert cubes.shape == (2, 2 * 3 * 5, 3 * 4 * 4, 3)
    assert torch.equal(to_clip(cubes, (2, 3, 5), 3, 4), clip)


def test_the_embedding_is_the_published_convolution(small):
    model, clip = small
    embedding = model.encoder.patch_embed
    ours = embedding(to_cubes(clip, 2, 8).flatten(2))
    torch.testing.assert_close(ours, embedding.proj(clip).flatten(2).transpose(1, 2))


@torch.no_grad()
def test_attention_costs_a_hundredth_with_nine_tenths_hidden():
    """A narrow model on clips of the published size, 160 of whose 1568 tokens stay: the products of pairs of tokens
    fall to their square's share, all else to theirs."""
    model, clip = VideoMAE(hidden_size=4, num_attention_heads=1, num_hidden_layers=1), torch.zeros(1, 3, 16, 224, 224)
    counted = []
    for mask in (tube(1, 0.9, (8, 14, 14)), None):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            model.encode(clip, mask)
        by_kind = counter.get_flop_counts()["Global"]
        pairs = by_kind.pop(torch.ops.aten.bmm)
        counted.append((pairs, sum(by_kind.values())))
    (pairs, others), (all_pairs, all_others) = counted
    assert pairs / all_pairs == pytest.approx((160 / 1568) ** 2) == pytest.approx(0.0104, abs=1e-4)
    assert others / all_others == pytest.approx(160 / 1568)


def test_a_full_clip_costs_the_published_180_gflops():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        VideoMAE().encode(torch.empty(1, 3, 16, 224, 224))
    assert counter.get_total_flops() / 2 == pytest.approx(180e9, rel=0.01)


def test_every_norm_has_the_published_eps():
    with torch.device("meta"):
        models = VideoMAE(num_hidden_layers=1, decoder_num_hidden_layers=1), VideoMAE(num_classes=5)
    norms = [module for model in models for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 6 + 25 and {norm.eps for norm in norms} == {1e-6}


# -- what is refused -------------------------------------------------------------------------------------------------


def test_masks_that_hide_unequally_are_refused(small):
    """The official code shapes [~mask] anew and lets tokens of one clip slip into another."""
    model, clip = small
    mask = tube(3, 0.75, kind="random")
    mask[0, (~mask[0]).nonzero()[:3, 0]] = True
    mask[1, mask[1].nonzero()[:3, 0]] = False
    assert mask.sum() == 3 * 48
    for function in (model.encode, model.reconstruct, model.targets):
        with pytest.raises(ValueError, match="equally many cubes of each clip, these hide 45 to 51"):
            function(clip, mask)


def test_what_does_not_fit_is_refused(small):
    model, clip = small
    for wrong in (tube(3)[:, :-1], tube(2), tube(3).long()):
        with pytest.raises(ValueError, match=r"a mask of these clips is bool \[3, 64\], not torch"):
            model.encode(clip, wrong)
    for shape in ((3, 3, 7, 32, 32), (3, 3, 8, 30, 32), (3, 8, 3, 32, 32), (3, 8, 32, 32)):
        with pytest.raises(ValueError, match=r"reads clips \[B, 3, T, H, W\], T a multiple of 2, H and W of 8, not \["):
            model.encode(torch.zeros(shape))
    with pytest.raises(ValueError, match="hides nothing"):
        model.reconstruct(clip, torch.zeros(3, 64, dtype=torch.bool))
