"""VideoCLIP's towers from a BERT as it is published, which is where the official pretraining starts.

The text tower takes all of its layers, the video tower the embeddings and the first layers; the MLP before the video
tower is new (fairseq examples/MMPT, mmpt/models/mmfusion.py, MMFusion.__init__).
"""

import inspect
import json
import re
from dataclasses import replace
from pathlib import Path

from thesis_lib.models.official import Report, place, read_weights
from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig

FILES = ("model.safetensors", "pytorch_model.bin")
TOWERS = ("text_encoder.", "video_encoder.bert.")
FRESH = r"video_encoder\.(videomlp|classifier)\.|\.pooler\."  # no BERT has the first two, some have no pooler
DROPPED = r"^cls\.|embeddings\.position_ids$"  # heads of BERT's own pretraining; a buffer
SIZES = {  # of VideoCLIPConfig, as config.json names them
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "text_layers": "num_hidden_layers",
    "max_position_embeddings": "max_position_embeddings",
}
ASSUMED = {  # of config.json, where it names them
    "model_type": "bert",
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "position_embedding_type": "absolute",
}


def load_bert(folder: str | Path, **config) -> tuple[VideoCLIP, Report]:
    """A VideoCLIP in eval mode whose towers are a published BERT, and the report of what was loaded.

    folder: config.json, vocab.txt, and model.safetensors or pytorch_model.bin, as `bert-base-uncased` is downloaded;
    old names (gamma, beta), the prefix `bert.` and heads are understood. config: arguments of VideoCLIPConfig that a
    BERT does not tell, as video_dim= or video_layers=; dropout is the file's unless given. What is new is drawn from
    torch's generator. Raises ValueError if a file is missing, damaged or of another model, lacks a tensor or
    contradicts an argument.
    """
    own, path, tensors = read_bert(folder)
    unknown = sorted(config.keys() - inspect.signature(VideoCLIPConfig).parameters.keys())
    if unknown:
        raise ValueError(f"VideoCLIPConfig has no argument '{unknown[0]}'")
    for name in own.keys() & config.keys() - {"dropout"}:
        if own[name] != config[name]:
            raise ValueError(f"{folder}: {name}={config[name]} was asked for, the files have {name}={own[name]}")
    model = VideoCLIP(VideoCLIPConfig(**own | config))
    if model.config.video_layers > model.config.text_layers:
        raise ValueError(f"{folder}: video_layers={model.config.video_layers}, the BERT has {model.config.text_layers}")

    expected = model.state_dict()
    placed = {tower + name: tensor for name, tensor in tensors.items() for tower in TOWERS if tower + name in expected}
    report = place(model, placed, path, "bert", optional=FRESH, sizes=": not the weights of the config.json beside it")
    unused = [name for name in tensors if TOWERS[0] + name not in expected]
    dropped = [name for name in unused if re.search(DROPPED, name)]
    unexpected = [name for name in unused if name not in dropped]
    return model.eval(), replace(report, dropped=dropped, unexpected=unexpected)


def read_bert(folder: str | Path) -> tuple[dict, Path, dict]:
    """(arguments of VideoCLIPConfig that a folder tells, file of weights, its tensors by the names of BertModel).

    Heads keep their prefix `cls.`. Raises ValueError if a file is missing or damaged, or of no BERT.
    """
    folder = Path(folder)
    return _own_config(folder), *_weights(folder)


def _own_config(folder):
    """The arguments of VideoCLIPConfig that config.json and vocab.txt tell."""
    for name in ("config.json", "vocab.txt"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: no {name} there; expected the folder of a BERT, as bert-base-uncased")
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ValueError(f"{folder}/config.json: not a JSON object")
    for name, value in ASSUMED.items():
        if settings.get(name, value) != value:
            raise ValueError(f"{folder}/config.json: {name} is {settings[name]!r}, VideoCLIP has {value!r}")
    absent = [name for name in SIZES.values() if not isinstance(settings.get(name), int)]
    if absent:
        raise ValueError(f"{folder}/config.json: {absent[0]} is {settings.get(absent[0])!r}, expected a number")
    pieces = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    if len(pieces) > settings["vocab_size"] or not {"[CLS]", "[SEP]"} <= set(pieces):
        expected = f"expected at most {settings['vocab_size']} with [CLS] and [SEP]"
        raise ValueError(f"{folder}/vocab.txt: {len(pieces)} pieces, {expected}")
    frame = {"cls_id": pieces.index("[CLS]"), "sep_id": pieces.index("[SEP]")}
    sizes = {name: settings[theirs] for name, theirs in SIZES.items()}
    return sizes | frame | {"dropout": settings.get("hidden_dropout_prob", VideoCLIPConfig.dropout)}


def _weights(folder):
    """(file, tensors by the names of today's BertModel)."""
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder}: no weights there; expected {' or '.join(FILES)}")
    content = read_weights(path)
    names = {re.sub(r"gamma$", "weight", re.sub(r"beta$", "bias", name)): name for name in content}
    return path, {name.removeprefix("bert."): content[old] for name, old in names.items()}
