"""Fresh encoders become a published image model or BERT, where the official pretraining of ALPRO and SViTT starts.

ALPRO: timm's ViT-B/16 of ImageNet-21k and bert-base-uncased (salesforce/ALPRO src/modeling/timesformer/helpers.py
load_pretrained_imagenet, src/modeling/alpro_models.py). SViTT: microsoft/beit-base-patch16-224-pt22k-ft22k and
bert-base-uncased (JerryYLi/svitt models/model_retrieval_base.py, models/utils.py). What no file tells stays as it was
drawn; the report names it.
"""

import math
import re
from pathlib import Path

import torch
from torch import nn

from thesis_lib.models.alpro import TimeSformer, nearest_places
from thesis_lib.models.bert_weights import read_bert
from thesis_lib.models.official import PREFIXES, Report, looks_like, read_weights, unwrap
from thesis_lib.models.sparse_attention import inflate, regrid
from thesis_lib.models.svitt import VideoEncoder

VIT = "a ViT in timm's layout, as vit_base_patch16_224"
BEIT = "a fine-tuned BEiT in the layout of transformers, as microsoft/beit-base-patch16-224-pt22k-ft22k"
BERT = "a BERT, as bert-base-uncased"
TABLE, INDEX = (f"relative_position_bias.relative_position_{part}" for part in ("bias_table", "index"))
SIZES = "hidden_size num_attention_heads intermediate_size text_layers vocab_size max_position_embeddings".split()
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


def start_timesformer(model: TimeSformer, path: str | Path) -> Report:
    """Puts a ViT into a fresh TimeSformer, in place; the report tells what became of every tensor.

    Attention over time begins as a copy of that over space, LayerNorm included. temporal_fc and time_embed stay 0, so a
    clip of equal frames gets what the ViT makes of one. Another number of patches takes the nearest of the position
    embeddings in rows and columns, as the model itself does (the official code of this start lets them go then).
    Raises ValueError if the file is unreadable, no ViT or of other sizes.
    """
    tensors = _read(path, "blocks.0.attn.qkv.weight", VIT)
    if "pos_embed" in tensors:
        cls, places = tensors["pos_embed"][:, :1], tensors["pos_embed"][:, 1:]
        if math.isqrt(places.shape[1]) ** 2 != places.shape[1]:
            raise ValueError(
                f"{path}: pos_embed has {1 + places.shape[1]} rows, expected [CLS] and a square of patches"
            )
        side = math.isqrt(model.pos_embed.shape[1] - 1)
        tensors["pos_embed"] = torch.cat([cls, nearest_places(places, side, side)], dim=1)
    for name in [name for name in tensors if re.match(r"blocks\.\d+\.(attn|norm1)\.", name)]:
        tensors.setdefault(re.sub(r"\.(attn|norm1)\.", r".temporal_\1.", name), tensors[name])
    fresh, dropped = r"^time_embed$|\.temporal_fc\.", r"^(head|pre_logits\.fc)\."
    return _fill(model, tensors, path, "vit", VIT, fresh, dropped)


def start_beit(model: VideoEncoder, path: str | Path) -> Report:
    """Puts a BEiT into the video encoder of a SViTT, in place; the report tells what became of every tensor.

    Its position biases are the same at every distance in time (`inflate`), so features do not depend on the order of
    frames yet; another number of patches gets them by `regrid`. Raises ValueError if the file is unreadable, no BEiT
    or of other sizes.
    """
    tensors = _read(path, "encoder.layer.0.lambda_1", BEIT)
    frames, side, _ = model.config.window
    for name in [name for name in tensors if name.endswith(TABLE)]:
        if len(tensors[name]) != (2 * side - 1) ** 2 + 3:
            try:
                tensors[name] = regrid(tensors[name], side)
            except ValueError as error:
                raise ValueError(f"{path}: {name}: {error}: expected {BEIT}") from None
        tensors[name] = inflate(tensors[name], frames)
    return _fill(model, tensors, path, "beit", BEIT, r"(?!)", rf"^classifier\.|^embeddings\.mask_token$|{INDEX}$")


def start_bert(text_encoder: nn.Module, folder: str | Path, vocab: str | Path, config, num_layers: int) -> Report:
    """Puts a BERT into the text encoder of an ALPRO, its prompter or a SViTT, in place.

    Attention to the video is new; so is the head for masked words where the file has none. folder: as `load_bert` reads
    it, with the pieces of `vocab` · config: that of the model · num_layers: of its BERT, those that fuse included.
    Raises ValueError if a file is missing, damaged, no BERT, of other sizes or other pieces.
    """
    own, path, tensors = read_bert(folder)
    for name in SIZES:
        asked = num_layers if name == "text_layers" else getattr(config, name)
        if own[name] != asked:
            raise ValueError(f"{folder}: {name} is {own[name]}, the training is asked for {asked}: set it alike")
    if Path(vocab).read_text("utf-8").split() != (Path(folder) / "vocab.txt").read_text("utf-8").split():
        raise ValueError(f"{vocab}: other pieces than {folder}/vocab.txt: give that one as the vocabulary")
    expected = text_encoder.state_dict()
    tensors = {name if name.startswith("cls.") else f"bert.{name}": tensor for name, tensor in tensors.items()}
    fresh = r"\.crossattention\."
    if not any(name.startswith("cls.predictions.") for name in tensors):
        fresh += r"|^cls\."
    for name, twin in TIED.items():  # files have one of them or both
        found = [tensors[one] for one in (twin, name) if one in tensors]
        tensors |= {one: found[0] for one in (twin, name) if found and one in expected}
    dropped = r"^bert\.(pooler|encoder\.layer)\.|^cls\.|position_ids$"
    return _fill(text_encoder, tensors, path, "bert", BERT, fresh, dropped)


def _read(path, signature, kind):
    """The tensors of a file by name, which has one called `signature`."""
    path = Path(path)
    tensors, _, found_as = unwrap(path, read_weights(path), PREFIXES)
    tensors = {name.removeprefix("beit."): tensor for name, tensor in tensors.items()}
    if signature not in tensors:
        raise ValueError(f"{path}: not {kind}: {found_as}: looks like {looks_like(tensors)}")
    return tensors


def _fill(model, tensors, path, kind, description, fresh, dropped):
    """Copies tensors into a model of exactly their names, but for those that may be `fresh` or `dropped`."""
    expected = {name: x for name, x in model.state_dict().items() if not name.endswith(INDEX)}
    matched = [name for name in expected if name in tensors]
    for name in matched:
        if tensors[name].shape != expected[name].shape:
            ours, theirs = list(expected[name].shape), list(tensors[name].shape)
            raise ValueError(f"{path}: {name} is {theirs} where the model has {ours}: set the sizes of the file")
    missing = [name for name in expected if name not in tensors]
    unused = [name for name in tensors if name not in expected]
    lacking = [name for name in missing if not re.search(fresh, name)]
    unknown = [name for name in unused if not re.search(dropped, name)]
    if lacking:
        raise ValueError(f"{path}: lacks {lacking[0]}: expected {description}")
    if unknown:
        raise ValueError(f"{path}: the model has no place for {unknown[0]}: expected {description}, of its sizes")
    model.load_state_dict({name: tensors[name] for name in matched}, strict=False)
    return Report(kind=kind, matched=matched, dropped=unused, missing=missing, unexpected=[])
