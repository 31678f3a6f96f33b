"""SViTT: the encoder against the official numbers, and what its sparsity promises."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from thesis_lib.models import svitt as svitt_module
from thesis_lib.models.official import load_official
from thesis_lib.models.stochastic_depth import leave_out
from thesis_lib.models.svitt import (
    SparseSelfAttention,
    SViTT,
    SViTTConfig,
    count_edges,
    expand,
    inflate,
    keep_tokens,
    sparse_pattern,
)

TINY = SViTTConfig(
    frames=4,
    image_size=32,
    patch_size=8,
    hidden_size=32,
    num_attention_heads=4,
    intermediate_size=64,
    video_layers=3,
    layer_scale=1.0,
    stochastic_depth=0.0,
    block=6,
    drop_after=(0, 1),
    vocab_size=40,
    text_layers=5,
    fusion_layer=2,
    fusion_keep_rate=0.3,
    fusion_drop_after=(3,),
    max_position_embeddings=20,
    embed_dim=12,
)


def build(seed=0, **changed):
    """A tiny model in eval mode whose position biases are not 0."""
    torch.manual_seed(seed)
    model = SViTT(replace(TINY, **changed)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias_table"):
            torch.nn.init.normal_(parameter)
    return model


@pytest.fixture
def clip():
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(5))


TEXT = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()


def test_the_encoder_equals_the_official_one(golden):
    case = golden.load("svitt/encoder_a")
    spec = case.spec
    config = replace(TINY, video_layers=spec["layers"], image_size=32, sparse_edges=None, block=spec["block"])
    encoder = svitt_module.SparseEncoder(replace(config, keep_rate=spec["keep"], drop_after=tuple(spec["loc"]))).eval()
    weights, own = case.weights(), encoder.state_dict()
    weights |= {name: value for name, value in own.items() if name.endswith("index")}
    assert list(sorted(own)) == sorted(weights)
    encoder.load_state_dict(weights)
    states, kept = encoder(golden.ramp((spec["B"], 65, 32), spec["seed"]))
    assert golden.deviation(states, case.arrays["out_last_hidden_state"]) < 5e-6
    for stage, positions in enumerate(kept):
        assert np.array_equal(positions, case.arrays[f"out_token_idx{stage}"])


def test_tokens_left_at_full_size():
    """784 patches of four frames at a keep rate of 0.7, 1568 of eight at 0.6; here and in the paper's configuration."""
    expected = {(4, 0.7): [549, 385, 270], (8, 0.6): [941, 565, 339]}
    for (frames, rate), counts in expected.items():
        config = SViTTConfig(frames=frames, keep_rate=rate, hidden_size=2, num_attention_heads=1, intermediate_size=2)
        encoder = svitt_module.SparseEncoder(replace(config, video_layers=10)).eval()
        with torch.no_grad():
            states, kept = encoder(torch.randn(1, 1 + 196 * frames, 2))
        assert [len(positions[0]) for positions in kept] == counts
        assert states.shape[1] == 1 + counts[-1]
        for more, fewer in pairwise(kept):
            assert set(fewer[0].tolist()) < set(more[0].tolist()) and (fewer.diff() > 0).all()


def test_keeping_all_and_seeing_all_is_the_dense_model(clip):
    model = build(keep_rate=1.0, sparse_edges=(1, 99))
    dense = build(keep_rate=1.0, sparse_edges=None)
    for one, other in zip(model.encode_video(clip), dense.encode_video(clip), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    sparse = build(keep_rate=1.0, sparse_edges=(1, 1)).encode_video(clip)[1]
    assert (sparse - dense.encode_video(clip)[1]).abs().max() > 1e-3


def test_the_same_features_every_time_and_from_the_seed(clip):
    model = build()
    first = model.encode_video(clip)[1]
    sparse_pattern.cache_clear()
    assert torch.equal(model.encode_video(clip)[1], first) and torch.equal(build().encode_video(clip)[1], first)
    assert not torch.equal(build(pattern_seed=1).encode_video(clip)[1], first)
    patterns = [model.vision_encoder.encoder.pattern(number, 64) for number in range(3)]
    assert len(patterns[0]) == 11 and patterns[0].shape[1] == 4 and not torch.equal(patterns[0], patterns[1])


def test_a_salient_patch_survives(clip):
    """[CLS] looks along one direction: a patch that points there is kept to the end wherever it stands."""
    model = build(keep_rate=0.2, drop_after=(0,), sparse_edges=None)
    layer = model.vision_encoder.encoder.layer[0]
    with torch.no_grad():
        layer.attention["attention"].relative_position_bias.relative_position_bias_table.zero_()
        attention = layer.attention["attention"]
        attention.query.weight.zero_()
        attention.query.bias.fill_(1.0)
        attention.key.weight.copy_(torch.eye(32))
    for planted in (0, 17, 63):
        tokens = torch.randn(2, 65, 32)
        tokens[:, 1 + planted] = torch.linspace(-1, 1, 32) + 0.1
        layer.layernorm_before.bias.data = torch.zeros(32)
        weight = torch.zeros(32)
        weight[-4:] = 5.0
        layer.layernorm_before.weight.data = weight
        tokens[:, 1:, -4:] = -1.0
        tokens[:, 1 + planted, -4:] = 9.0
        _, kept = model.vision_encoder.encoder(tokens)
        assert (kept[0] == planted).any(dim=1).all() and kept[0].shape == (2, 13)


def test_gradients_reach_everything_that_computes(clip):
    model = build().train()
    states, pooled = model.encode_video(clip)
    text = model.encode_text(*TEXT)
    fused = model.fuse(text, TEXT[1], states)
    parts = [model.project_video(pooled), model.project_text(text), model.itm_head(fused[:, 0])]
    words = model.text_encoder.word_logits(fused)
    total = sum((part * torch.randn_like(part)).sum() for part in [*parts, words]) / model.temperature()
    total.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    assert model.vision_encoder.encoder.layer[0].attention["attention"].query.weight.grad.abs().sum() > 0


def test_clips_of_other_shapes(clip):
    model = build()
    for frames in (1, 2, 3):
        assert model.encode_video(clip[:, :, :frames])[1].shape == (2, 32)
    for wrong in (torch.zeros(1, 3, 5, 32, 32), torch.zeros(1, 3, 4, 32, 40), torch.zeros(1, 2, 4, 32, 32)):
        with pytest.raises(ValueError, match=r"SViTT reads clips \[B, 3, 1\.\.4, 32, 32\], not"):
            model.encode_video(wrong)
    with pytest.raises(ValueError, match="fusion_layer 5 is none of 5 text layers"):
        build(fusion_layer=5)


def test_padding_of_texts_changes_nothing(clip):
    model = build()
    ids, mask = TEXT
    states, _ = model.encode_video(clip)
    both = model.fuse(model.encode_text(ids, mask), mask, states)
    alone = model.fuse(model.encode_text(ids[1:, :3], mask[1:, :3]), mask[1:, :3], states[1:])
    torch.testing.assert_close(both[1:, :3], alone)


def test_stochastic_depth_leaves_out_whole_branches_in_training_only(clip):
    model = build(stochastic_depth=1.0, sparse_edges=None, keep_rate=1.0)
    layer, x = model.vision_encoder.encoder.layer[-1], torch.randn(2, 65, 32)
    positions = torch.arange(64)[None]
    whole = layer(x, None, positions)[0]
    assert not torch.equal(whole, x)
    layer.stochastic_depth = 0.999
    assert torch.equal(layer.train()(x, None, positions)[0], x)
    layer.stochastic_depth = 0.5
    torch.manual_seed(0)
    mean = leave_out(torch.ones(4000, 1, 1), layer.stochastic_depth, layer.training).mean()
    assert mean.item() == pytest.approx(1, abs=0.06)


# -- fusion ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_later_fusion_layers_see_fewer_patches(clip, rate):
    """The released code reads its cross-modal keep rate nowhere: all layers see all patches there."""
    model, seen = build(fusion_keep_rate=rate), []
    for layer in model.text_encoder.bert["encoder"]["layer"][2:]:
        key = layer.crossattention["self"].key
        key.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    states, _ = model.encode_video(clip)
    fused = model.fuse(model.encode_text(*TEXT), TEXT[1], states)
    patches = states.shape[1] - 1
    fewer = 1 + int(np.ceil(rate * patches))
    assert seen == [1 + patches, 1 + patches, fewer] and (fewer < 1 + patches) == (rate < 1)
    everything = build(fusion_keep_rate=1.0).fuse(model.encode_text(*TEXT), TEXT[1], states)
    assert torch.equal(fused, everything) == (rate == 1)


def test_fusion_keeps_what_the_text_looks_at(clip):
    model = build()
    states, _ = model.encode_video(clip)
    text = model.encode_text(*TEXT)
    layers = model.text_encoder.bert["encoder"]["layer"]
    after = layers[3](layers[2](text, TEXT[1][:, None, None], states)[0], TEXT[1][:, None, None], states)
    assert after[1].shape == (2, 4, 1, states.shape[1])
    torch.testing.assert_close(after[1].sum(-1), torch.ones(2, 4, 1))
    kept = keep_tokens(after[1], 0.3)
    changed = states.clone()
    for row in range(2):
        gone = [i for i in range(states.shape[1] - 1) if i not in kept[row].tolist()]
        changed[row, [1 + i for i in gone]] += 3.0
    last, mask = layers[4], TEXT[1][:, None, None]
    with torch.no_grad():
        direct = last(after[0], mask, svitt_module.keep_rows(states, kept))[0]
        of_changed = last(after[0], mask, svitt_module.keep_rows(changed, kept))[0]
        torch.testing.assert_close(model.fuse(text, TEXT[1], states), direct)
    assert torch.equal(direct, of_changed)


# -- time --------------------------------------------------------------------------------------------------------------


def test_after_inflation_the_order_of_frames_is_invisible(clip):
    model = build(sparse_edges=None)
    order = [2, 0, 3, 1]
    shuffled = clip[:, :, order]
    assert (model.encode_video(shuffled)[1] - model.encode_video(clip)[1]).abs().max() > 1e-3
    with torch.no_grad():
        for layer in model.vision_encoder.encoder.layer:
            table = layer.attention["attention"].relative_position_bias.relative_position_bias_table
            table.copy_(inflate(torch.randn(7 * 7 + 3, 4), 4))
    torch.testing.assert_close(model.encode_video(shuffled)[1], model.encode_video(clip)[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("edges", [None, (1, 2)])
def test_expansion_keeps_what_was_learned(clip, edges):
    """Four frames to eight: where the bias is constant in time nothing changes, and each frame twice is the same clip.

    A bias learned in time is stretched with the clip, so that each frame twice stays nearly the same; nearer than
    with a new table.
    """
    few = build(keep_rate=1.0, sparse_edges=edges)
    many = SViTT(replace(few.config, frames=8)).eval()
    many.load_state_dict(expand(few.state_dict(), 4, 8))
    table = many.vision_encoder.encoder.layer[0].attention["attention"].relative_position_bias
    assert table.relative_position_bias_table.shape == (15 * 7 * 7 + 3, 4)
    if edges is None:
        twice = clip.repeat_interleave(2, dim=2)
        fresh = SViTT(replace(few.config, frames=8)).eval()
        fresh.load_state_dict(
            expand(few.state_dict(), 4, 8) | {k: v for k, v in fresh.state_dict().items() if "_ta" in k}
        )
        before = few.encode_video(clip)[1]
        moved = [(model.encode_video(twice)[1] - before).abs().mean() for model in (many, fresh)]
        assert moved[0] < 0.6 * moved[1]
    flat = {k: inflate(v[: 7 * 7 + 3], 4) if k.endswith("_table") else v for k, v in few.state_dict().items()}
    few.load_state_dict(flat)
    many.load_state_dict(expand(flat, 4, 8))
    torch.testing.assert_close(many.encode_video(clip)[1], few.encode_video(clip)[1], rtol=0, atol=1e-5)


# -- official files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def official(tmp_path):
    """A file in the official layout: the buffers too that ours has not."""
    model = build(keep_rate=0.5)
    weights = model.state_dict() | {"text_encoder.bert.embeddings.position_ids": torch.arange(20)[None]}
    path = tmp_path / "ckpt_09.pth"
    torch.save({"model": weights, "optimizer": {}, "scheduler": {}, "epoch": 9, "global_step": 7}, path)
    return path, model


def test_an_official_file_gives_the_same_model(official, clip):
    path, model = official
    loaded, report = load_official("svitt", path, block=6, keep_rate=0.5, drop_after=(0, 1), dropout=0.0)
    assert not report.missing and not report.unexpected and len(report.matched) == len(model.state_dict())
    assert report.dropped == ["text_encoder.bert.embeddings.position_ids"]
    told = ("frames", "image_size", "patch_size", "hidden_size", "num_attention_heads", "video_layers", "text_layers")
    for name in (*told, "intermediate_size", "fusion_layer", "vocab_size", "embed_dim", "max_position_embeddings"):
        assert getattr(loaded.config, name) == getattr(TINY, name), name
    assert torch.equal(loaded.encode_video(clip)[1], model.encode_video(clip)[1])
    predictions = loaded.text_encoder.cls["predictions"]
    assert predictions.decoder.weight is loaded.text_encoder.bert["embeddings"].word_embeddings.weight
    assert predictions.bias is predictions.decoder.bias


class Pickled:
    """Stands for the OmegaConf that official files hold."""


def test_wrong_files_say_what_they_are(official, tmp_path):
    path, model = official
    content = torch.load(path, weights_only=True)
    torch.save(content | {"config": Pickled()}, path)
    with pytest.raises(ValueError, match=r"refused: it wants to run code while loading \(.*Pickled\); trust=True"):
        load_official("svitt", path)
    assert load_official("svitt", path, trust=True)[1].matched
    torch.save({"model": torch.load(path, weights_only=False)["model"]}, path)  # as the module's docstring advises
    assert load_official("svitt", path)[1].matched
    with pytest.raises(ValueError, match="frames=8 was asked for, the file has frames=4"):
        load_official("svitt", path, frames=8)
    with pytest.raises(ValueError, match="svitt has no argument 'window'"):
        load_official("svitt", path, window=3)

    def refused(changed, message):
        torch.save({"model": {name: value for name, value in changed.items() if value is not None}}, path)
        with pytest.raises(ValueError, match=message):
            load_official("svitt", path)

    weights = content["model"]
    refused({"layer.weight": torch.ones(2)}, "not svitt: 1 tensors in 'model': looks like none of")
    refused(weights | {"text_proj.bias": None}, "not a complete svitt: lacks text_proj.bias")
    refused(weights | {"vision_proj.weight": None}, "not a complete svitt: .*, lacks vision_proj.weight")
    table = "vision_encoder.encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table"
    refused(weights | {table: torch.zeros(100, 4)}, "has 100 rows, which no 64 patches in square frames have")
    with pytest.raises(ValueError, match="not asformer: .*: looks like svitt"):
        torch.save({"model": weights}, path)
        load_official("asformer", path)


def test_names_that_others_rely_on():
    module = SparseSelfAttention(dim=16, num_heads=2, window=(1, 4, 4), block=4)
    assert module(torch.randn(1, 17, 16), None).shape == (1, 17, 16)
    assert count_edges(16, sparse_pattern(4, 1, 1, 0), 4) == 17 + 16 * (1 + 2 * 4)
