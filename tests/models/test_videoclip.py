"""VideoCLIP against the official code: both towers, their gradients, token classification and zero-shot scores."""

import math

import pytest
import torch

from thesis_lib import segmentation
from thesis_lib.losses import contrastive_loss
from thesis_lib.models.official import load_official
from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig, save_official_videoclip

OUTPUTS, GRADIENTS = 5e-6, 2e-5  # the official code in float32 is within 1.3e-6 and 3.2e-6 of itself in float64
HEADS = {"num_attention_heads": 4}  # of the tiny official models; a file does not tell


@pytest.fixture
def tiny(tmp_path):
    """A function that loads the filled weights of a case from a file as fairseq writes it."""

    def load(case, **constructor):
        path = tmp_path / "checkpoint_best.pt"
        torch.save({"args": None, "cfg": {"model": {}}, "model": case.weights(), "extra_state": {"epoch": 1}}, path)
        return load_official("videoclip", path, **HEADS | constructor)

    return load


def pairs(case, golden):
    """Features, their mask, ids, their mask; the official captions hold a second [SEP] that the video uses."""
    spec, arrays = case.spec, {name: torch.from_numpy(array) for name, array in case.arrays.items() if "in_" in name}
    mask = arrays["in_vmasks"]
    features = golden.ramp((*mask.shape, spec["input_dim"]), spec["vfeats_seed"]) * mask[..., None]
    return features, mask, without_second(arrays["in_caps"]), without_second(arrays["in_cmasks"])


def without_second(x):
    return torch.cat([x[:, :1], x[:, 2:]], dim=1)


def windows(case, golden):
    """A video cut as for segmentation: (features [W, 32, D] zero-padded, mask [W, 32])."""
    length, dim = case.spec["T"], case.spec["input_dim"]
    video = torch.cat([golden.ramp((length, dim), case.spec["feat_seed"]), torch.zeros(32, dim)])
    starts = torch.tensor(segmentation.window_starts(length, 32, case.spec["stride"]))
    rows = starts[:, None] + torch.arange(32)
    return video[rows], rows < length


def check_towers(model, case, golden):
    features, mask, ids, text_mask = pairs(case, golden)
    official, every = case.arrays, case.spec["hidden_stride"]
    video, text = model(features, mask, ids, text_mask)
    assert golden.deviation(video, official["out_pooled_video"]) < OUTPUTS
    assert golden.deviation(text, official["out_pooled_text"]) < OUTPUTS
    for attend_cls, suffix in ((True, ""), (False, "_infer")):
        pooled = model.encode_video(features, mask, attend_cls)
        assert golden.deviation(pooled, official[f"out_pooled_video{suffix or ''}"]) < OUTPUTS
        tokens = model.encode_video_tokens(features, mask, attend_cls)[..., ::every]
        assert golden.deviation(tokens, official[f"out_hidden_video{suffix}"][:, 1:-1]) < OUTPUTS
    assert golden.deviation(model.text_encoder(ids, text_mask)[..., ::every], official["out_hidden_text"]) < OUTPUTS
    assert golden.deviation(contrastive_loss(video, text), official["out_loss_mm"]) < OUTPUTS
    scaled = contrastive_loss(video * case.spec["loss_scale"], text)
    assert golden.deviation(scaled, official["out_loss_mm_scaled"]) < OUTPUTS
    return scaled


def check_segmentation(model, case, golden):
    features, mask = windows(case, golden)
    logits, every = model.classify_tokens(features, mask), case.spec["class_stride"]
    assert golden.deviation(logits[..., ::every], case.arrays["out_window_logits"]) < OUTPUTS
    merged = segmentation.merge_windows(logits, case.spec["T"], 32, case.spec["stride"])
    assert golden.deviation(merged[:, ::every], case.arrays["out_merged"]) < OUTPUTS
    assert torch.equal(torch.as_tensor(merged).argmax(dim=1), torch.from_numpy(case.arrays["out_pred"]))


def test_tiny_towers_loss_and_gradients_equal_the_official(tiny, golden):
    case = golden.load("videoclip/tiny_a")
    model, report = tiny(case)
    assert len(report.matched) == 100 and not report.missing and not report.unexpected
    assert [name.split(".")[-1] for name in report.dropped] == ["position_ids", "position_ids"]
    check_towers(model, case, golden).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert {name for name, _ in model.named_parameters()} - gradients.keys() == {
        f"{tower}.pooler.dense.{kind}"
        for tower in ("video_encoder.bert", "text_encoder")
        for kind in ("weight", "bias")
    }
    total = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    assert golden.deviation(total, case.arrays["out_grad_norm_total"]) < GRADIENTS
    for name in case.spec["grads"]:
        assert golden.deviation(gradients[name], case.arrays[f"out_grad:{name}"]) < GRADIENTS


def test_tiny_token_classifier_equals_the_official(tiny, golden):
    case = golden.load("videoclip/tiny_seg_a")
    model = tiny(case)[0]
    assert model.config.num_classes == 779
    with torch.inference_mode():
        check_segmentation(model, case, golden)


def test_tiny_zero_shot_equals_the_official(tiny, golden):
    case = golden.load("videoclip/tiny_zs_a")
    model = tiny(case)[0]
    ids, mask = (without_second(torch.from_numpy(case.arrays[f"in_label_{name}"])) for name in ("caps", "cmasks"))
    features, window_mask = windows(case, golden)
    with torch.inference_mode():
        labels = model.encode_text(ids, mask)
        scores = model.encode_video_tokens(features, window_mask, attend_cls=False) @ labels.T
    merged = torch.as_tensor(segmentation.merge_windows(scores, case.spec["T"], 32, case.spec["stride"]))
    assert golden.deviation(labels, case.arrays["out_label_vectors"]) < OUTPUTS
    assert golden.deviation(merged, case.arrays["out_merged"]) < OUTPUTS
    assert torch.equal(merged.argmax(dim=1), torch.from_numpy(case.arrays["out_pred_50salads"]))


def test_full_size_equals_the_official(golden):
    """All 177 million parameters, once: towers, loss and the token classifier of 779 steps."""
    case = golden.load("videoclip/case_a")
    weights = {name.removeprefix("mmmodel."): x for name, x in case.weights("manifest_seg.json").items()}
    with torch.device("meta"):
        model = VideoCLIP(VideoCLIPConfig(num_classes=779)).eval()
    head = sum(weights[f"video_encoder.classifier.{kind}"].numel() for kind in ("weight", "bias"))
    assert sum(parameter.numel() for parameter in model.parameters()) - head == 177_423_360
    missing = model.load_state_dict(weights, strict=False, assign=True)
    assert not missing.missing_keys and all("position_ids" in name for name in missing.unexpected_keys)
    with torch.inference_mode():
        check_towers(model, case, golden)
        check_segmentation(model, golden.load("videoclip/seg_a"), golden)


def small(**config):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "video_layers": 2}
    sizes |= {"text_layers": 2, "video_dim": 6, "cls_id": 2, "sep_id": 3, "max_position_embeddings": 40}
    return VideoCLIP(VideoCLIPConfig(**sizes | config)).eval()


@pytest.mark.parametrize("attend_cls", [True, False])
def test_padding_does_not_matter(attend_cls):
    model, features, ids = small(), torch.randn(1, 5, 6), torch.tensor([[2, 9, 8, 7, 3]])
    padded, mask = torch.randn(1, 20, 6), torch.arange(20)[None] < 5
    padded[:, :5] = features
    alone, long = (model.encode_video(x, m, attend_cls) for x, m in ((features, None), (padded, mask)))
    assert torch.allclose(alone, long, atol=1e-6)
    tokens = model.encode_video_tokens(padded, mask, attend_cls)
    assert tokens.shape == (1, 20, 16)
    assert torch.allclose(tokens[:, :5], model.encode_video_tokens(features, None, attend_cls), atol=1e-6)
    padded_ids, text_mask = torch.tensor([[2, 9, 8, 7, 3, 0, 11]]), torch.tensor([[1, 1, 1, 1, 1, 0, 0]])
    assert torch.allclose(model.encode_text(ids), model.encode_text(padded_ids, text_mask), atol=1e-6)


def test_order_and_mask_of_cls_do_matter():
    model, features = small(), torch.randn(1, 5, 6)
    vector = model.encode_video(features)
    assert not torch.allclose(vector, model.encode_video(features.flip(1)), atol=1e-5)
    assert not torch.allclose(vector, model.encode_video(features, attend_cls=False), atol=1e-5)


def test_dropout_acts_in_training_only():
    model, features = small(), torch.randn(1, 5, 6)
    assert torch.equal(model.encode_video(features), model.encode_video(features))
    model.train()
    assert not torch.equal(model.encode_video(features), model.encode_video(features))


def test_starts_as_bert_does():
    model = small(hidden_size=64, vocab_size=500)
    assert model.text_encoder.embeddings.word_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.video_encoder.videomlp.linear2.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not model.video_encoder.videomlp.linear2.bias.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_file_of_ours_in_the_official_layout(tmp_path, golden, dtype):
    model = small(num_classes=7, video_dim=1024).to(dtype)
    save_official_videoclip(model, tmp_path / "ours.pt")
    loaded, report = load_official("videoclip", tmp_path / "ours.pt")  # heads and ids are in the file
    assert loaded.config == model.config and not report.missing and not report.unexpected
    ours, theirs = model.float().state_dict(), loaded.state_dict()
    assert all(theirs[name].dtype == torch.float32 and torch.equal(x, theirs[name]) for name, x in ours.items())
    names = torch.load(tmp_path / "ours.pt", weights_only=True)["model"]
    official = golden.load("videoclip/tiny_seg_a").weights()
    depth = [name for name in official if "text_encoder.encoder.layer.2" not in name]  # ours has a layer less
    assert list(names) == depth


def test_says_what_is_wrong():
    with pytest.raises(ValueError, match="no token classifier"):
        small().classify_tokens(torch.randn(1, 5, 6))
    with pytest.raises(ValueError, match="at most 32 features of 6 values, not 33 of 6"):
        small().encode_video(torch.randn(1, 33, 6))
    with pytest.raises(ValueError, match="at most 32 features of 6 values, not 5 of 7"):
        small().encode_video(torch.randn(1, 5, 7))
    with pytest.raises(ValueError, match="hidden_size 16 is no multiple of num_attention_heads 3"):
        small(num_attention_heads=3)


def test_an_untrained_loss_is_that_of_chance():
    model = small()
    video, text = model(torch.zeros(8, 4, 6), None, torch.full((8, 3), 5), None)
    assert contrastive_loss(video, text).item() == pytest.approx(2 * math.log(8))


def test_large_batches_get_what_each_row_gets_alone():
    """Above 128 rows those of like length go together; order, masks of early tokens and gradients stay their own."""
    model, torch_rng = small(), torch.Generator().manual_seed(0)
    features, ids = torch.randn(300, 20, 6), torch.randint(5, 50, (300, 15), generator=torch_rng)
    seconds, words = (torch.randint(low, high, (300, 1), generator=torch_rng) for low, high in ((1, 21), (2, 16)))
    video_mask, text_mask = torch.arange(20) < seconds, torch.arange(15) < words
    video_mask[5, 0] = text_mask[7, 1] = False  # a hole, not padding
    text_mask[7, 2] = True
    video, text = model(features, video_mask, ids, text_mask)
    (video.square().sum() + text.square().sum()).backward()
    together = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    for row in range(300):
        one = slice(row, row + 1)
        alone = model(features[one], video_mask[one], ids[one], text_mask[one])
        assert torch.allclose(alone[0], video[one], atol=1e-5) and torch.allclose(alone[1], text[one], atol=1e-5)
        (alone[0].square().sum() + alone[1].square().sum()).backward()
    alone = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(together, alone, strict=True))
