"""ALPRO's models against the official code and transformers, and what their parts promise."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from thesis_lib.models.alpro import Alpro, AlproConfig, TimeSformer, ensemble, region_mean
from thesis_lib.models.official import load_official, main

TOLERANCE = 5e-6
GOLDEN = Path(__file__).parents[1] / "golden/alpro"
SIZES = dict(size=16, patch_size=8, num_frames=3, video_layers=2, hidden_size=16, num_attention_heads=2)
SIZES |= dict(intermediate_size=32, num_hidden_layers=3, fusion_layer=2, vocab_size=40, embed_dim=8, num_entities=5)


@pytest.fixture
def save(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "file.pt")
        return tmp_path / "file.pt"

    return save


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Alpro(AlproConfig(**SIZES)).eval()


def shaken(model):
    """No weight is zero: what is zero at the start hides mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


# -- TimeSformer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "visual_encoder.model."])
def test_timesformer_equals_the_official(golden, save, prefix):
    case = golden.load("alpro/case_a")
    path = save({prefix + name: value for name, value in case.weights().items()})
    model, report = load_official("timesformer", path, num_attention_heads=4)
    assert len(report.matched) == 69 and not report.missing and not report.unexpected and not report.dropped
    clip = 2 * golden.ramp(case.spec["shape"], case.spec["seed"])
    with torch.inference_mode():
        cls, patches = model.encode(clip)
        by_place = torch.cat([cls[:, None], patches.transpose(1, 2).flatten(1, 2)], dim=1)  # the official order
        by_frame = torch.cat([cls[:, None], patches.mean(dim=2)], dim=1)
        ours = {"tokens": by_place, "cls": cls, "pooled_temporal": model.encode_video_tokens(clip)}
        ours |= {"pooled_spatial": by_frame, "head_logits": model(clip)}
    for name, value in ours.items():
        assert golden.deviation(value, case.arrays[f"out_{name}"]) < TOLERANCE, name


def test_timesformer_equals_the_official_at_full_size(golden, save):
    case = golden.load("alpro/base_a")
    model, report = load_official("timesformer", save(case.weights("manifest_base.json")))
    assert len(report.matched) == 249 and not report.unexpected
    clip = 2 * golden.ramp(case.spec["shape"], case.spec["seed"])
    with torch.inference_mode():
        cls, patches = model.encode(clip)
    tokens = torch.cat([cls[:, None], patches.transpose(1, 2).flatten(1, 2)], dim=1)
    pooled = torch.cat([cls[:, None], patches.mean(dim=1)], dim=1)
    assert golden.deviation(tokens[:, ::8, ::12], case.arrays["out_tokens"]) < TOLERANCE
    assert golden.deviation(pooled[..., ::12], case.arrays["out_pooled_temporal"]) < TOLERANCE


def test_timesformer_equals_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = shaken(TimeSformer(32, 8, 4, 48, 3, 4, 96, num_classes=5)).eval()
    sizes = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, num_labels=5)
    config = transformers.TimesformerConfig(image_size=32, patch_size=8, num_frames=4, layer_norm_eps=1e-6, **sizes)
    theirs = transformers.TimesformerForVideoClassification(config).eval()
    names = {
        "cls_token": "timesformer.embeddings.cls_token",
        "pos_embed": "timesformer.embeddings.position_embeddings",
        "time_embed": "timesformer.embeddings.time_embeddings",
        "patch_embed.proj": "timesformer.embeddings.patch_embeddings.projection",
        "blocks.": "timesformer.encoder.layer.",
        "temporal_attn.qkv": "temporal_attention.attention.qkv",
        "temporal_attn.proj": "temporal_attention.output.dense",
        "temporal_norm1": "temporal_layernorm",
        "temporal_fc": "temporal_dense",
        ".attn.qkv": ".attention.attention.qkv",
        ".attn.proj": ".attention.output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
        "head.": "classifier.",
    }

    def renamed(name):
        for old, new in names.items():
            name = name.replace(old, new)
        return name.replace("norm.", "timesformer.layernorm.") if name.startswith("norm.") else name

    theirs.load_state_dict({renamed(name): value for name, value in ours.state_dict().items()})
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        assert (ours(clip) - theirs(clip.transpose(1, 2)).logits).abs().max() < 2e-6


def test_fresh_it_knows_no_time():
    """The order of frames means nothing, and a clip that stands still is what its frame is."""
    torch.manual_seed(0)
    model, clip = TimeSformer(16, 8, 4, 16, 2, 2, 32).eval(), torch.randn(2, 3, 4, 16, 16)
    assert not any(block.temporal_fc.weight.any() or block.temporal_fc.bias.any() for block in model.blocks)
    with torch.no_grad():
        tokens = model.encode_video_tokens(clip)
        assert torch.allclose(tokens, model.encode_video_tokens(clip[:, :, [2, 0, 3, 1]]), atol=1e-6)
        still = clip[:, :, :1]
        assert torch.allclose(
            model.encode_video_tokens(still.expand(-1, -1, 4, -1, -1)), model.encode_video_tokens(still), atol=1e-6
        )
        shaken(model)
        moved = model.encode_video_tokens(clip[:, :, [2, 0, 3, 1]]) - model.encode_video_tokens(clip)
        assert moved.abs().max() > 0.01, "later it does"


def test_fresh_it_is_an_image_transformer_on_what_stands_still():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = TimeSformer(16, 8, 4, 16, 2, 2, 32)
    for name, parameter in ours.named_parameters():
        if "temporal_fc" not in name and name != "time_embed":
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    sizes = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, layer_norm_eps=1e-6)
    config = transformers.ViTConfig(image_size=16, patch_size=8, **sizes)
    theirs = transformers.ViTModel(config, add_pooling_layer=False).eval()
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "blocks": "layers",
        "attn.proj": "attention.o_proj",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
    }
    weights = {}
    for name, value in ours.state_dict().items():
        if "temporal" in name or name == "time_embed":
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        name = name.replace("norm.", "layernorm.") if name.startswith("norm.") else name
        parts = zip("qkv", value.chunk(3), strict=True)
        if "qkv" in name:
            weights |= {name.replace("attn.qkv", f"attention.{part}_proj"): rows for part, rows in parts}
        else:
            weights[name] = value
    theirs.load_state_dict(weights)
    picture = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        tokens = ours.eval().encode_video_tokens(picture[:, :, None].expand(-1, -1, 4, -1, -1))
        assert (tokens - theirs(picture).last_hidden_state).abs().max() < 2e-6


def test_other_lengths_and_sizes_take_the_nearest_embeddings():
    torch.manual_seed(0)
    model = TimeSformer(16, 8, 2, 16, 1, 2, 32).eval()
    with torch.no_grad():
        model.time_embed.copy_(torch.tensor([10.0, 20.0])[None, :, None].expand(1, 2, 16))
        model.pos_embed[0, 1:].copy_(torch.arange(4.0)[:, None].expand(4, 16))
    assert model._times(4)[0, :, 0].tolist() == [10, 10, 20, 20] and model._times(1)[0, :, 0].tolist() == [10]
    assert model._places(2, 4)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert model.encode_video_tokens(torch.randn(1, 3, 5, 16, 32)).shape == (1, 1 + 8, 16)


def test_clips_of_a_batch_do_not_meet(small):
    clips = torch.randn(3, 3, 3, 16, 16)
    with torch.no_grad():
        alone = torch.cat([small.embed_video(clip[None]) for clip in clips])
        assert torch.allclose(small.embed_video(clips), alone, atol=1e-6)


def test_whole_branches_are_dropped_in_training_alone():
    torch.manual_seed(0)
    model = shaken(TimeSformer(16, 8, 2, 16, 4, 2, 32, stochastic_depth=0.9))
    clip = torch.randn(2, 3, 2, 16, 16)
    with torch.no_grad():
        assert not torch.equal(model.train().encode_video_tokens(clip), model.encode_video_tokens(clip))
        assert torch.equal(model.eval().encode_video_tokens(clip), model.encode_video_tokens(clip))
        block = model.blocks[-1].train()
        kept = block._drop(torch.ones(200, 50, 3, 4))
    assert kept.unique().tolist() == pytest.approx([0, 10]) and kept.mean() == pytest.approx(1, abs=0.1)
    assert (kept == kept[..., :1, :1]).all(), "a sequence stays whole"


def test_bad_clips_and_sizes_are_refused():
    model = TimeSformer(16, 8, 2, 16, 1, 2, 32)
    for shape in [(1, 1, 2, 16, 16), (1, 3, 2, 12, 16), (1, 3, 2, 16, 12)]:
        with pytest.raises(ValueError, match=r"clips \[B, 3, T, H, W\] with H and W multiples of 8, not \[1,"):
            model.encode_video_tokens(torch.randn(shape))
    with pytest.raises(ValueError, match=r"clips \[B, 3, T, H, W\]"):
        model.encode_video_tokens(torch.randn(3, 2, 16, 16))
    with pytest.raises(ValueError, match="no classifier"):
        model(torch.randn(1, 3, 2, 16, 16))
    with pytest.raises(ValueError, match="patch_size 7"):
        TimeSformer(16, 7)


# -- the whole model ---------------------------------------------------------------------------------------------------


def test_text_is_a_bert_and_fusion_its_last_layers(small):
    """Against transformers' BERT: its first layers for the text, its last ones over text and video together."""
    transformers = pytest.importorskip("transformers")
    sizes = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, vocab_size=40)
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**sizes)).eval()
    shaken(small)
    own = {name.removeprefix("text_encoder."): x for name, x in small.state_dict().items() if name[:5] == "text_"}
    own = {name: x for name, x in own.items() if not name.startswith("text_proj")}
    missing, unexpected = bert.load_state_dict(own, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing)

    ids = torch.randint(5, 40, (2, 6))
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]]).bool()
    video = torch.randn(2, 5, 16)
    with torch.no_grad():
        text = small.encode_text_tokens(ids, mask)
        states = bert.bert(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        assert (text - states[2])[mask].abs().max() < 1e-5
        fused = small.fuse(text, mask, video)
        both = torch.cat([mask, torch.ones(2, 5, dtype=torch.bool)], dim=1)
        open_ = torch.zeros(both.shape).masked_fill(~both, torch.finfo(torch.float32).min)[:, None, None]
        theirs = bert.bert.encoder.layer[2](torch.cat([text, video], dim=1), open_)
        theirs = theirs[0] if isinstance(theirs, tuple) else theirs
        assert (fused - theirs)[both].abs().max() < 1e-5
        assert (small.word_logits(fused, 6) - bert.cls(fused[:, :6])).abs().max() < 1e-5


def test_padding_of_a_text_changes_nothing(small):
    ids, mask = torch.tensor([[2, 9, 8, 3, 0, 0]]), torch.tensor([[True] * 4 + [False] * 2])
    clip = torch.randn(1, 3, 3, 16, 16)
    with torch.no_grad():
        video = small.encode_video_tokens(clip)
        long = small.fuse(small.encode_text_tokens(ids, mask), mask, video)
        short = small.fuse(small.encode_text_tokens(ids[:, :4], mask[:, :4]), mask[:, :4], video)
    assert torch.allclose(small.match_logits(long), small.match_logits(short), atol=1e-6)
    assert torch.allclose(long[:, 6:], short[:, 4:], atol=1e-6)


def test_vectors_have_unit_length_and_the_temperature_its_bounds(small):
    ids = torch.tensor([[2, 9, 3]])
    with torch.no_grad():
        for vectors in (small.embed_video(torch.randn(4, 3, 3, 16, 16)), small.embed_text(ids, ids > 0)):
            assert torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors)))
        for value, expected in [(-1, 0.001), (7, 0.5), (0.3, 0.3)]:
            small.temp.fill_(value)
            assert small.temperature().item() == pytest.approx(expected)


def test_the_head_of_masked_words_shares_the_word_embeddings(small):
    state = small.state_dict()
    words = state["text_encoder.bert.embeddings.word_embeddings.weight"]
    assert words.data_ptr() == state["text_encoder.cls.predictions.decoder.weight"].data_ptr()
    assert (
        state["text_encoder.cls.predictions.bias"].data_ptr()
        == state["text_encoder.cls.predictions.decoder.bias"].data_ptr()
    )


def test_the_prompter_is_a_frozen_teacher(small):
    before = {name: value.clone() for name, value in small.prompter.state_dict().items()}
    small.train()
    assert not small.prompter.training and small.training
    assert not any(parameter.requires_grad for parameter in small.prompter.parameters())
    clip = torch.randn(2, 3, 3, 16, 16)
    first, second = small.prompter.soft_labels(clip), small.prompter.soft_labels(clip)
    assert torch.equal(first, second) and not first.requires_grad, "no dropout, no gradient"
    assert torch.allclose(first.sum(dim=1), torch.ones(2))
    assert all(torch.equal(value, before[name]) for name, value in small.prompter.state_dict().items())


def test_soft_labels_follow_from_similarities(small):
    prompter, clip = small.prompter, torch.randn(2, 3, 3, 16, 16)
    with torch.no_grad():
        prompter.video_prompt_feat.copy_(F.normalize(torch.randn(5, 8), dim=1))
        prompter.temp.fill_(0.1)
        scores = prompter.embed_video(clip) @ prompter.video_prompt_feat.T / 0.1
    assert torch.allclose(prompter.soft_labels(clip), scores.softmax(dim=1))


def test_entities_are_means_of_templates(small, golden):
    case = golden.load("alpro/ens_a")
    count, width, templates = (case.spec[key] for key in ("M", "D", "templates"))
    features = F.normalize(golden.ramp((count * templates, width), case.spec["seed"]), dim=-1)
    assert golden.deviation(ensemble(features, count), case.arrays["out_ensembled"]) < 1e-6

    ids = torch.randint(5, 40, (15, 4))  # three templates
    small.prompter.set_entities(ids, ids > 0)
    with torch.no_grad():
        by_hand = small.prompter.embed_text(ids, ids > 0).reshape(3, 5, 8).mean(0)
    assert torch.allclose(small.prompter.video_prompt_feat, by_hand)
    assert (small.prompter.video_prompt_feat.norm(dim=1) < 1).all(), "not of unit length again"


def test_the_entity_head_equals_the_official(small, golden):
    case = golden.load("alpro/pem_a")
    batch, width, entities, length = (case.spec[key] for key in ("B", "D", "M", "txt_len"))
    fused = golden.ramp((batch, length + 1 + 16, width), case.spec["seed"])
    region = torch.from_numpy(case.arrays["in_patch_mask"]).flatten(1) == 0
    small.mpm_head[2] = torch.nn.Linear(2 * width, entities)
    small.mpm_head.load_state_dict(case.weights("manifest_mpm_head.json"))
    with torch.no_grad():
        assert golden.deviation(region_mean(fused[:, -16:], region), case.arrays["out_own_region_mean"]) < TOLERANCE
        logits = small.entity_logits(fused, region)
        assert golden.deviation(logits, case.arrays["out_official_mpm_logits"]) < TOLERANCE
        outside = torch.cat([torch.ones(batch, length + 1, dtype=torch.bool), ~region], dim=1)
        assert torch.equal(small.entity_logits(fused.masked_fill(outside[..., None], 7.0), region), logits)


# -- official files ----------------------------------------------------------------------------------------------------


def official(model):
    """Its weights as the official code saves them: prompts of pictures, buffers, and a prompter that has everything."""
    weights = dict(model.state_dict())
    prompts = {name: weights.pop(name) for name in list(weights) if name.startswith("prompter.")}
    weights |= {
        f"prompter.{name}": value for name, value in weights.items() if not name.startswith("mpm_head")
    } | prompts
    weights["prompter.image_prompt_feat"] = torch.rand_like(weights["prompter.video_prompt_feat"])
    for prefix in ("", "prompter."):
        weights[f"{prefix}text_encoder.bert.embeddings.position_ids"] = torch.arange(512)[None]
        weights[f"{prefix}visual_encoder.model.head.weight"] = torch.rand(7, 16)
        weights[f"{prefix}visual_encoder.model.head.bias"] = torch.rand(7)
    return weights


def test_an_official_file_loads_whole(small, save, capsys):
    path = save({name: value.clone() for name, value in official(shaken(small)).items()})
    with pytest.raises(ValueError, match="does not tell the number of heads: num_attention_heads="):
        load_official("alpro", path)
    with pytest.raises(ValueError, match="does not tell where fusion begins: fusion_layer="):
        load_official("alpro", path, num_attention_heads=2)
    model, report = load_official("alpro", path, num_attention_heads=2, fusion_layer=2)
    assert not report.missing and not report.unexpected
    assert all(
        name.endswith(("position_ids", "image_prompt_feat")) or name.startswith("prompter.") for name in report.dropped
    )
    assert model.config.video_classes == 7 and model.config.num_entities == 5
    ids, clip = torch.tensor([[2, 9, 3]]), torch.randn(1, 3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model.embed_video(clip), small.embed_video(clip))
        assert torch.equal(model.embed_text(ids, ids > 0), small.embed_text(ids, ids > 0))
        assert torch.equal(model.prompter.soft_labels(clip), small.prompter.soft_labels(clip))


def test_a_file_without_prompter_loads_without_entities(small, save):
    weights = {name: x for name, x in small.state_dict().items() if not name.startswith(("prompter.", "mpm_head."))}
    model, report = load_official("alpro", save(weights), num_attention_heads=2, fusion_layer=2)
    assert model.config.num_entities == 0 and not hasattr(model, "prompter") and not report.unexpected


def test_import_prints_a_forward_pass(golden, save, capsys):
    main("timesformer", save(golden.load("alpro/base_a").weights("manifest_base.json")))
    assert "timesformer: 249 tensors matched" in capsys.readouterr().out


def test_wrong_files_are_named(small, save, golden):
    whole = save(official(small))
    with pytest.raises(ValueError, match="not timesformer: .*looks like alpro"):
        load_official("timesformer", whole)
    with pytest.raises(ValueError, match="not asformer: .*looks like alpro"):
        load_official("asformer", whole)
    with pytest.raises(ValueError, match="not alpro: 69 tensors: looks like timesformer"):
        load_official("alpro", save(golden.load("alpro/case_a").weights()))
    cut = {name: value for name, value in official(small).items() if name != "text_proj.bias"}
    with pytest.raises(ValueError, match="not a complete alpro: lacks text_proj.bias"):
        load_official("alpro", save(cut), num_attention_heads=2, fusion_layer=2)


def test_released_names_at_full_size():
    with torch.device("meta"):
        names = Alpro(AlproConfig(video_classes=400)).state_dict()
    expected = json.loads((GOLDEN / "manifest_base.json").read_text())
    ours = {name: list(x.shape) for name, x in names.items()}
    for prefix in ("", "prompter."):
        assert {
            f"{prefix}visual_encoder.model.{name}": shape for name, (shape, _) in expected.items()
        }.items() <= ours.items()
    assert ours["prompter.video_prompt_feat"] == [1000, 256] and ours["mpm_head.2.weight"] == [1000, 1536]
    assert ours["vision_proj.weight"] == [256, 768] and ours["itm_head.weight"] == [2, 768]
    assert ours["text_encoder.cls.predictions.transform.LayerNorm.weight"] == [768]
