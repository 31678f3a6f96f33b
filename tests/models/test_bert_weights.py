"""Towers that start from a published BERT, against BertModel of transformers and the towers that MMPT makes of it."""

import json
import re
import shutil

import pytest
import torch

from benchmarks import mmpt
from thesis_lib.models.bert_weights import FRESH, load_bert

CLOSE = 1e-5
SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def bert(tmp_path):
    """A folder as bert-base-uncased is downloaded, of random weights."""
    pytest.importorskip("transformers", reason="needs transformers: pip install -e '.[fairseq]'")
    torch.manual_seed(0)
    return mmpt.write_bert(tmp_path / "bert", initializer_range=0.2, hidden_dropout_prob=0.0, **SIZES)


def tokens():
    ids = torch.randint(5, 200, (4, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(12) < torch.tensor([12, 1, 7, 3])[:, None]
    return ids, mask


def old_names(folder, prefix="bert."):
    """The same weights as pytorch_model.bin of the first BERT: gamma and beta, a prefix, heads, a buffer."""
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    renamed = {prefix + re.sub(r"LayerNorm\.(\w+)$", lambda m: OLD[m[1]], name): x for name, x in weights.items()}
    heads = {"cls.predictions.bias": torch.zeros(200), "cls.seq_relationship.weight": torch.zeros(2, 32)}
    positions = {f"{prefix}embeddings.position_ids": torch.arange(512)[None]}
    torch.save(renamed | heads | positions, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


OLD = {"weight": "LayerNorm.gamma", "bias": "LayerNorm.beta"}


@pytest.mark.parametrize("rewrite", [None, old_names], ids=["today's names", "names of 2018"])
def test_hidden_states_are_those_of_bert_model(bert, golden, rewrite):
    from transformers import BertModel

    whole = BertModel.from_pretrained(bert).eval()
    first = BertModel.from_pretrained(bert, num_hidden_layers=2).eval()
    if rewrite:
        rewrite(bert)
    model, report = load_bert(bert, video_layers=2, video_dim=6)
    assert not model.training and not report.unexpected
    assert all(re.search(FRESH, name) for name in report.missing) and len(report.dropped) == (3 if rewrite else 0)
    ids, mask = tokens()
    with torch.no_grad():
        for tower, reference in ((model.text_encoder, whole), (model.video_encoder.bert, first)):
            expected = reference(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            assert golden.deviation(tower(ids, mask)[mask], expected[mask]) < CLOSE


def test_towers_are_those_that_mmpt_starts_from(bert, tmp_path):
    try:
        packages = mmpt.load()
    except mmpt.Missing as reason:
        pytest.skip(str(reason))
    theirs = packages.models.MMFusionSeparate(mmpt.settings(bert, 2)).state_dict()
    model = load_bert(bert, video_layers=2)[0]
    ours = model.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert "videomlp" in name or torch.equal(ours[name], value), name
    assert ours["video_encoder.videomlp.linear1.weight"].shape == theirs["video_encoder.videomlp.linear1.weight"].shape
    assert (model.config.cls_id, model.config.sep_id, model.config.dropout) == (2, 3, 0.0)


def test_what_is_new_follows_the_seed_and_the_arguments(bert):
    first, again, other = (load_bert(bert, video_layers=1, num_classes=5, video_dim=7)[0] for _ in seeds(1, 1, 2))
    weight = "video_encoder.videomlp.linear1.weight"
    assert first.state_dict()[weight].shape == (32, 7)
    assert torch.equal(first.state_dict()[weight], again.state_dict()[weight])
    assert not torch.equal(first.state_dict()[weight], other.state_dict()[weight])
    assert first.classify_tokens(torch.zeros(1, 3, 7)).shape == (1, 3, 5)
    assert load_bert(bert, video_layers=1, dropout=0.3)[0].config.dropout == 0.3


def seeds(*values):
    for value in values:
        yield torch.manual_seed(value)


def test_half_precision_becomes_single(bert):
    from safetensors.torch import load_file, save_file

    weights = load_file(bert / "model.safetensors")
    save_file({name: x.half() for name, x in weights.items()}, bert / "model.safetensors")
    value = load_bert(bert, video_layers=2)[0].text_encoder.embeddings.word_embeddings.weight
    assert value.dtype == torch.float32 and torch.equal(value, weights["embeddings.word_embeddings.weight"].half())


def change_config(folder, **values):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | values))


def without(name):
    def change(folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        del weights[name]
        save_file(weights, folder / "model.safetensors")

    return change


LAYER = "encoder.layer.2.output.dense.weight"
MISTAKES = {
    "no folder": (shutil.rmtree, {}, "no config.json there; expected the folder of a BERT"),
    "no vocabulary": (lambda f: (f / "vocab.txt").unlink(), {}, "no vocab.txt there"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), {}, "expected model.safetensors or pytorch_model.bin"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), {}, "config.json: not a JSON object"),
    "no size": (lambda f: change_config(f, hidden_size=None), {}, "hidden_size is None, expected a number"),
    "RoBERTa": (lambda f: change_config(f, model_type="roberta"), {}, "model_type is 'roberta', VideoCLIP has 'bert'"),
    "cut": (lambda f: (f / "model.safetensors").write_bytes(b"12345678"), {}, "truncated or damaged"),
    "a page": (lambda f: (f / "model.safetensors").write_text("<html> not found </html>"), {}, "truncated or damaged"),
    "a layer less": (without(LAYER), {}, f"not a complete bert: lacks text_encoder.{LAYER}"),
    "larger": (lambda f: change_config(f, intermediate_size=65), {}, "not the weights of the config.json beside it"),
    "other words": (lambda f: (f / "vocab.txt").write_text("[PAD]\n"), {}, "vocab.txt: 1 pieces, expected at most 200"),
    "too deep": (lambda f: None, {"video_layers": 4}, "video_layers=4, the BERT has 3"),
    "contradiction": (
        lambda f: None,
        {"hidden_size": 64},
        "hidden_size=64 was asked for, the files have hidden_size=32",
    ),
    "misspelt": (lambda f: None, {"video_layer": 2}, "no argument 'video_layer'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line(bert, mistake):
    change, config, message = MISTAKES[mistake]
    change(bert)
    with pytest.raises(ValueError) as caught:
        load_bert(bert, **{"video_layers": 2} | config)
    assert message in str(caught.value) and "\n" not in str(caught.value)
