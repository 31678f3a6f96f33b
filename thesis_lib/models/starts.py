"""Fresh encoders become a published BERT or image model, where the official pretraining of ALPRO and SViTT starts.

Both take bert-base-uncased; `vit_start` has the image model of ALPRO, `beit_start` that of SViTT. What no file tells
stays as it was drawn; the report names it.
"""

from pathlib import Path

from torch import nn

from thesis_lib.models.bert_weights import read_bert
from thesis_lib.models.official import PREFIXES, Report, looks_like, place, read_weights, unwrap

BERT = "a BERT, as bert-base-uncased"
INDEX = r"relative_position_bias\.relative_position_index$"  # follows from sizes
SIZES = "hidden_size num_attention_heads intermediate_size text_layers vocab_size max_position_embeddings".split()
TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


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
    return fill(text_encoder, tensors, path, "bert", BERT, fresh, dropped)


def read(path: str | Path, signature: str, kind: str) -> dict:
    """The tensors of a file by name, which has one called `signature`. ValueError if it has not or is damaged."""
    path = Path(path)
    tensors, _, found_as = unwrap(path, read_weights(path), PREFIXES)
    tensors = {name.removeprefix("beit."): tensor for name, tensor in tensors.items()}
    if signature not in tensors:
        raise ValueError(f"{path}: not {kind}: {found_as}: looks like {looks_like(tensors)}")
    return tensors


def fill(
    model: nn.Module, tensors: dict, path: str | Path, kind: str, description: str, fresh: str, dropped: str
) -> Report:
    """`official.place` into a model of exactly the names of the file, but for those `fresh` in it or `dropped`.

    Raises ValueError where names or shapes differ.
    """
    names = dict(optional=fresh, dropped=dropped, derived=INDEX)
    hints = dict(wanted=f": expected {description}", sizes=": set the sizes of the file")
    return place(model, tensors, path, kind, **names, strict=True, **hints)
