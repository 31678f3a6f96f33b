"""Encoders that start from published image models and BERTs: at the start they are these models.

Oracles: a ViT written here with torch's functions, BeitModel and BERT of transformers.
"""

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from benchmarks.mmpt import SPECIAL
from thesis_lib.models.alpro import Alpro, AlproConfig, TimeSformer, TwoTowers
from thesis_lib.models.beit_start import start_beit
from thesis_lib.models.sparse_attention import inflate, regrid
from thesis_lib.models.starts import start_bert
from thesis_lib.models.svitt import SViTT, SViTTConfig
from thesis_lib.models.vit_start import start_timesformer

CLOSE = dict(rtol=1e-5, atol=1e-5)
WIDTH, HEADS, LAYERS, WORDS = 16, 2, 3, 40


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[fairseq]'")


def refuses(function, *arguments):
    with pytest.raises(ValueError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- ViT -> TimeSformer ------------------------------------------------------------------------------------------------


def vit_weights(side=4, patch=4, width=WIDTH, layers=2):
    """timm's names; nothing is 0 or 1."""
    torch.manual_seed(0)
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1 + side**2, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for number in range(layers):
        block = f"blocks.{number}."
        sizes = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        sizes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width), "norm1": (width,), "norm2": (width,)}
        for name, shape in sizes.items():
            shapes |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,), "head.weight": (5, width), "head.bias": (5,)}
    shapes |= {"pre_logits.fc.weight": (width, width), "pre_logits.fc.bias": (width,)}
    return {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}


def vit(weights, images, places=None):
    """A ViT by hand: images [B, 3, H, W] -> normalised states [B, 1 + N, D]."""
    patches = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=4)
    x = torch.cat([weights["cls_token"].expand(len(images), 1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    x = x + (weights["pos_embed"] if places is None else places)

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, (x.shape[-1],), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    number = 0
    while f"blocks.{number}.norm1.weight" in weights:
        block = f"blocks.{number}."
        query, key, value = linear(block + "attn.qkv", norm(block + "norm1", x)).chunk(3, dim=-1)
        heads = []
        for q, k, v in zip(*(part.chunk(HEADS, dim=-1) for part in (query, key, value)), strict=True):
            heads.append((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(dim=-1) @ v)
        x = x + linear(block + "attn.proj", torch.cat(heads, dim=-1))
        x = x + linear(block + "mlp.fc2", F.gelu(linear(block + "mlp.fc1", norm(block + "norm2", x))))
        number += 1
    return norm("norm", x)


def timesformer(size=16):
    torch.manual_seed(1)
    return TimeSformer(size, 4, 3, WIDTH, 2, HEADS, 4 * WIDTH).eval()


def save(path, weights):
    save_file(weights, path) if path.suffix == ".safetensors" else torch.save(weights, path)
    return path


@pytest.mark.parametrize("name", ["vit.safetensors", "vit.pth", "wrapped.pth"])
def test_equal_frames_give_what_the_vit_makes_of_one(tmp_path, name):
    weights, model = vit_weights(), timesformer()
    start_timesformer(model, save(tmp_path / name, {"model": weights} if "wrapped" in name else weights))
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        cls, patches = model.encode(images[:, :, None].expand(-1, -1, 3, -1, -1))
        expected = vit(weights, images)
    torch.testing.assert_close(cls, expected[:, 0], **CLOSE)
    for frame in patches.unbind(dim=1):
        torch.testing.assert_close(frame, expected[:, 1:], **CLOSE)


def test_different_frames_are_each_seen_by_the_vit_before_they_meet(tmp_path):
    """In one block the patches of a frame see that frame alone: attention over time counts nothing yet."""
    weights = {name: x for name, x in vit_weights().items() if not name.startswith("blocks.1.")}
    model = TimeSformer(16, 4, 3, WIDTH, 1, HEADS, 4 * WIDTH).eval()
    start_timesformer(model, save(tmp_path / "vit.pth", weights))
    clip = torch.randn(1, 3, 3, 16, 16)
    with torch.no_grad():
        patches = model.encode(clip)[1][0]
        torch.testing.assert_close(patches, vit(weights, clip[0].transpose(0, 1))[:, 1:], **CLOSE)


def test_every_tensor_of_a_vit_is_accounted_for(tmp_path):
    weights, model = vit_weights(), timesformer()
    drawn = {name: x.clone() for name, x in model.state_dict().items()}
    report = start_timesformer(model, save(tmp_path / "vit.pth", weights))
    new, zero = model.state_dict(), ["time_embed"]
    zero += [f"blocks.{n}.temporal_fc.{part}" for n in range(2) for part in ("weight", "bias")]
    assert sorted(report.missing) == sorted(zero) and not report.unexpected
    assert all(not new[name].any() and torch.equal(new[name], drawn[name]) for name in zero)
    assert {*report.matched, *report.missing} == {*new}
    assert sorted(report.dropped) == sorted(n for n in weights if n.startswith(("head", "pre_logits")))
    for name in report.matched:
        assert torch.equal(new[name], weights[name.replace("temporal_", "")]), name


@pytest.mark.parametrize("size, rows", [(8, [0, 2]), (32, [0, 0, 1, 1, 2, 2, 3, 3])])
def test_images_of_another_size_take_the_nearest_places(tmp_path, size, rows):
    weights, model = vit_weights(), timesformer(size)
    start_timesformer(model, save(tmp_path / "vit.pth", weights))
    grid = weights["pos_embed"][:, 1:].unflatten(1, (4, 4))[:, rows][:, :, rows].flatten(1, 2)
    places = torch.cat([weights["pos_embed"][:, :1], grid], dim=1)
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        cls, patches = model.encode(images[:, :, None])
        torch.testing.assert_close(torch.cat([cls[:, None], patches[:, 0]], 1), vit(weights, images, places), **CLOSE)


def test_wrong_image_models_are_one_line(tmp_path):
    def said(weights, name="vit.pth"):
        return refuses(start_timesformer, timesformer(), save(tmp_path / name, weights))

    weights = vit_weights()
    lacking = said({name: tensor for name, tensor in weights.items() if name != "norm.bias"})
    assert "vit.pth: not a complete vit: lacks norm.bias: expected a ViT" in lacking
    assert "no place for blocks.2.attn.qkv.weight" in said(vit_weights(layers=3))
    larger = said(weights | {"norm.weight": torch.zeros(24)})
    assert "norm.weight is [24] where the model has [16]: set the sizes of the file" in larger
    assert "pos_embed has 18 rows, expected [CLS] and a square" in said(weights | {"pos_embed": torch.zeros(1, 18, 16)})
    alpro = Alpro(AlproConfig(size=8, patch_size=4, hidden_size=24, video_layers=1, num_hidden_layers=7))
    assert "not a ViT in timm's layout" in said(alpro.state_dict()) and "looks like alpro" in said(alpro.state_dict())
    (tmp_path / "cut.safetensors").write_bytes(b"12345678")
    assert "cut.safetensors: truncated or damaged" in refuses(
        start_timesformer, timesformer(), tmp_path / "cut.safetensors"
    )
    assert "none.safetensors: no such file" in refuses(start_timesformer, timesformer(), tmp_path / "none.safetensors")


class Runs:
    def __reduce__(self):
        return print, ("code of the file ran",)


def test_no_file_runs_code(tmp_path, capsys):
    torch.save(vit_weights() | {"extra": Runs()}, tmp_path / "vit.pth")
    assert "wants to run code while loading" in refuses(start_timesformer, timesformer(), tmp_path / "vit.pth")
    assert not capsys.readouterr().out


# -- BEiT -> SViTT -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def beit(transformers, tmp_path_factory):
    """(BeitModel, folder as it is published) with random weights everywhere."""
    torch.manual_seed(0)
    sizes = dict(hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=LAYERS, intermediate_size=4 * WIDTH)
    config = transformers.BeitConfig(image_size=24, patch_size=4, use_relative_position_bias=True, **sizes)
    model = transformers.BeitForImageClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("beit")
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    index = {n.replace("bias_table", "index"): torch.zeros(37, 37).long() for n in weights if n.endswith("bias_table")}
    torch.save(weights | index, folder / "pytorch_model.bin")  # early versions wrote the index too
    return model.beit, folder


def svitt(frames=1, size=24, **changed):
    sizes = dict(hidden_size=WIDTH, num_attention_heads=HEADS, intermediate_size=4 * WIDTH, video_layers=LAYERS)
    sizes |= dict(text_layers=LAYERS, fusion_layer=2, vocab_size=WORDS, embed_dim=8, dropout=0.0)
    torch.manual_seed(1)
    dense = dict(sparse_edges=None, keep_rate=1.0, fusion_keep_rate=1.0)
    return SViTT(SViTTConfig(frames=frames, image_size=size, patch_size=4, **sizes | dense | changed)).eval()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("frames", [1, 3])
def test_one_dense_frame_gives_what_beit_makes_of_it(beit, name, frames):
    """Inflated in time or not: of one frame only the distance 0 counts."""
    model, theirs = svitt(frames), beit[0]
    start_beit(model.vision_encoder, beit[1] / name)
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        expected = theirs(images)
        states, pooled, _ = model.vision_encoder(images[:, :, None])
    torch.testing.assert_close(states, expected.last_hidden_state, **CLOSE)
    torch.testing.assert_close(pooled, expected.pooler_output, **CLOSE)


def test_a_clip_starts_without_order(beit):
    model, clip = svitt(3), torch.randn(2, 3, 3, 24, 24)
    start_beit(model.vision_encoder, beit[1] / "model.safetensors")
    with torch.no_grad():
        first, again, other = (model.encode_video(x)[1] for x in (clip, clip[:, :, [2, 0, 1]], clip[:, :, [0, 0, 1]]))
    torch.testing.assert_close(first, again, **CLOSE)
    assert not torch.allclose(first, other, atol=1e-3)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_every_tensor_of_a_beit_is_accounted_for(beit, name):
    model = svitt(2)
    drawn = {name: x.clone() for name, x in model.state_dict().items()}
    report = start_beit(model.vision_encoder, beit[1] / name)
    theirs, ours = load_file(beit[1] / "model.safetensors"), model.vision_encoder.state_dict()
    assert not report.missing and not report.unexpected
    assert {"classifier.weight", "classifier.bias"} == {n for n in report.dropped if not n.endswith("_index")}
    assert set(report.matched) == {n for n in ours if not n.endswith("_index")}
    for name in report.matched:
        value = theirs[f"beit.{name}"]
        assert torch.equal(ours[name], inflate(value, 2) if name.endswith("bias_table") else value), name
    new = model.state_dict()
    rest = [name for name in new if not name.startswith("vision_encoder.")]
    assert rest and all(torch.equal(new[name], drawn[name]) for name in rest)


def test_another_image_size_gets_its_biases_by_the_published_spline(beit):
    model, table = svitt(2, size=32), "layer.1.attention.attention.relative_position_bias.relative_position_bias_table"
    start_beit(model.vision_encoder, beit[1] / "model.safetensors")
    theirs = load_file(beit[1] / "model.safetensors")[f"beit.encoder.{table}"]
    ours = model.vision_encoder.encoder.state_dict()[table]
    assert ours.shape == (3 * 15 * 15 + 3, HEADS) and torch.equal(ours, inflate(regrid(theirs, 8), 2))


def test_wrong_beits_are_one_line(beit, tmp_path):
    def said(change, **sizes):
        weights = load_file(beit[1] / "model.safetensors")
        change(weights)
        return refuses(start_beit, svitt(**sizes).vision_encoder, save(tmp_path / "beit.bin", weights))

    def keep(weights):
        pass

    norm, scale = "beit.pooler.layernorm.weight", "beit.encoder.layer.0.lambda_1"
    assert "lacks pooler.layernorm.weight: expected a fine-tuned BEiT" in said(lambda w: w.pop(norm))
    assert "not a fine-tuned BEiT" in said(lambda w: w.pop(scale))
    assert "no place for encoder.layer.2." in said(keep, video_layers=2)
    assert "where the model has" in said(keep, num_attention_heads=4)
    table = "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_bias_table"
    assert "a bias table of 9 rows, which no square image has" in said(lambda w: w.update({table: torch.zeros(9, 2)}))
    assert "no place for mystery" in said(lambda w: w.update(mystery=torch.zeros(2)))
    message = refuses(start_beit, svitt().vision_encoder, save(tmp_path / "vit.pth", vit_weights()))
    assert "not a fine-tuned BEiT" in message


# -- BERT -> both ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def berts(transformers, tmp_path_factory):
    """By class: (the model, its folder); all have the same kind of random weights."""
    found = {}
    for name in ("BertModel", "BertForMaskedLM", "BertForPreTraining"):
        torch.manual_seed(0)
        sizes = dict(hidden_size=WIDTH, num_attention_heads=HEADS, num_hidden_layers=LAYERS, vocab_size=WORDS)
        model = getattr(transformers, name)(transformers.BertConfig(intermediate_size=4 * WIDTH, **sizes)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn_like(parameter)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        pieces = [*SPECIAL, *(f"word{number}" for number in range(WORDS - len(SPECIAL)))]
        (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")
        found[name] = model, folder
    return found


def alpro_config(**changed):
    sizes = dict(size=8, patch_size=4, num_frames=2, video_layers=1, hidden_size=WIDTH, num_attention_heads=HEADS)
    sizes |= dict(intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS, fusion_layer=2, vocab_size=WORDS, dropout=0.0)
    return AlproConfig(**sizes | dict(num_entities=0) | changed)


def begin(model, folder, vocab=None):
    return start_bert(model.text_encoder, folder, vocab or folder / "vocab.txt", model.config, LAYERS)


def tokens():
    ids = torch.randint(5, WORDS, (3, 7), generator=torch.Generator().manual_seed(1))
    return ids, torch.arange(7) < torch.tensor([7, 2, 5])[:, None]


@pytest.mark.parametrize("name", ["BertModel", "BertForMaskedLM", "BertForPreTraining"])
def test_alpros_text_encoder_is_bert(berts, name):
    """The first layers read text; the others, with no video beside it, are the rest of the BERT."""
    theirs, folder = berts[name]
    torch.manual_seed(2)
    model = Alpro(alpro_config()).eval()
    report = begin(model, folder)
    (ids, mask), bare = tokens(), theirs if name == "BertModel" else theirs.bert
    with torch.no_grad():
        expected = bare(ids, attention_mask=mask.long(), output_hidden_states=True)
        text = model.encode_text_tokens(ids, mask)
        fused = model.fuse(text, mask, torch.zeros(3, 0, WIDTH))
        torch.testing.assert_close(text[mask], expected.hidden_states[2][mask], **CLOSE)
        torch.testing.assert_close(fused[mask], expected.last_hidden_state[mask], **CLOSE)
        if name != "BertModel":
            output = theirs(ids, attention_mask=mask.long())
            words = output.logits if name == "BertForMaskedLM" else output.prediction_logits
            torch.testing.assert_close(model.word_logits(fused, 7)[mask], words[mask], **CLOSE)
    head = [n for n in report.missing if n.startswith("cls.predictions.")]
    assert report.missing == head and not report.unexpected
    tied = "cls.predictions.decoder.weight"  # is that of the words, which every file has
    assert set(head) == ({n for n in model.text_encoder.state_dict() if n[:4] == "cls." and n != tied}
                         if name == "BertModel" else set())  # fmt: skip


@pytest.mark.parametrize("name", ["BertModel", "BertForPreTraining"])
def test_svitts_text_encoder_is_bert(berts, name):
    theirs, folder = berts[name]
    model = svitt()
    drawn = {name: x.clone() for name, x in model.state_dict().items()}
    report = begin(model, folder)
    (ids, mask), bare = tokens(), theirs if name == "BertModel" else theirs.bert
    with torch.no_grad():
        expected = bare(ids, attention_mask=mask.long(), output_hidden_states=True)
        torch.testing.assert_close(model.encode_text(ids, mask)[mask], expected.hidden_states[2][mask], **CLOSE)
        if name == "BertForPreTraining":
            states = torch.randn(2, 4, WIDTH)
            words = theirs.cls.predictions(states)
            torch.testing.assert_close(model.text_encoder.word_logits(states), words, **CLOSE)
    new, weights = model.text_encoder.state_dict(), bare.state_dict()
    fused = [n for n in report.matched if n.startswith("bert.encoder.layer.2.")]
    assert len(fused) == 16 and all(torch.equal(new[n], weights[n.removeprefix("bert.")]) for n in fused)
    cross = {n for n in new if ".crossattention." in n}
    assert cross == {n for n in report.missing if n.startswith("bert.")} and len(cross) == 10
    for name in report.missing:
        assert torch.equal(new[name], drawn[f"text_encoder.{name}"]), name
    assert {n.partition(".")[0] for n in report.dropped} <= {"bert", "cls"}
    assert all(re.search(r"pooler|seq_relationship", n) for n in report.dropped)


def test_a_prompter_has_the_first_layers(berts):
    theirs, folder = berts["BertForPreTraining"]
    towers = TwoTowers(alpro_config(), 2).eval()
    report = begin(towers, folder)
    ids, mask = tokens()
    with torch.no_grad():
        expected = theirs.bert(ids, attention_mask=mask.long(), output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(towers.encode_text_tokens(ids, mask)[mask], expected[mask], **CLOSE)
    assert not report.missing and "bert.encoder.layer.2.output.dense.weight" in report.dropped


def test_old_names_and_tied_tensors_are_understood(berts, tmp_path):
    """pytorch_model.bin of 2018: gamma, beta, and the last layer of the head beside the words it shares."""
    theirs, folder = berts["BertForPreTraining"]
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_text((folder / name).read_text())
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = {re.sub(r"LayerNorm\.\w+$", lambda m: old[m[0]], n): x for n, x in theirs.state_dict().items()}
    weights["bert.embeddings.position_ids"] = torch.arange(512)[None]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    new, again = Alpro(alpro_config()), Alpro(alpro_config())
    begin(new, folder), begin(again, tmp_path)
    one, two = new.text_encoder.state_dict(), again.text_encoder.state_dict()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert (
        again.text_encoder.cls.predictions.decoder.weight is again.text_encoder.bert.embeddings.word_embeddings.weight
    )


def test_wrong_berts_are_one_line(berts, tmp_path):
    folder = berts["BertForMaskedLM"][1]

    def said(vocab=None, folder=folder, **changed):
        return refuses(begin, Alpro(alpro_config(**changed)), folder, vocab)

    assert "hidden_size is 16, the training is asked for 32: set it alike" in said(hidden_size=32)
    assert "num_attention_heads is 2, the training is asked for 4" in said(num_attention_heads=4)
    assert "vocab_size is 40, the training is asked for 50" in said(vocab_size=50)
    (tmp_path / "vocab.txt").write_text("[CLS]\n")
    assert f"other pieces than {folder}/vocab.txt: give that one" in said(vocab=tmp_path / "vocab.txt")
    assert "no config.json there" in said(folder=tmp_path)
    model = Alpro(alpro_config())
    message = refuses(start_bert, model.text_encoder, folder, folder / "vocab.txt", model.config, LAYERS + 1)
    assert "text_layers is 3, the training is asked for 4" in message
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_text((folder / name).read_text())
    whole = load_file(folder / "model.safetensors")
    for lost in ("bert.encoder.layer.1.output.dense.bias", "cls.predictions.transform.dense.bias"):
        save_file({name: x for name, x in whole.items() if name != lost}, tmp_path / "model.safetensors")
        assert f"lacks {lost}: expected a BERT" in said(folder=tmp_path)
