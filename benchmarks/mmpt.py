"""The official VideoCLIP, made to run beside ours: fairseq's examples/MMPT on today's Python, torch and transformers.

It was written for Python 3.8 and transformers 3.4. What has moved since is patched from outside, none of its
arithmetic: dataclass defaults that Python 3.11 refuses, a module of transformers that was renamed, methods that it
dropped and the arguments of its layers. Attention is what transformers takes by itself, fused where torch has it.
"""

import dataclasses
import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PARTS = ("models", "losses", "processors", "tasks", "evaluators")


class Missing(Exception):
    """Why the official code is not here."""


class Settings(dict):
    """A configuration whose absent keys are None, which MMPT counts on and omegaconf has left off since 2.1."""

    __getattr__ = dict.get
    __setattr__ = dict.__setitem__


def load(folder: str | Path | None = None) -> SimpleNamespace:
    """MMPT's packages as attributes: models, losses, processors, tasks, evaluators.

    folder: the one that holds `mmpt`, as examples/MMPT of a clone; None = that in the wheel of fairseq. Raises Missing
    where there is none, or no transformers. Without fairseq the parts work that need no trainer.
    """
    if importlib.util.find_spec("transformers") is None:
        raise Missing("transformers is not installed: pip install -e '.[fairseq]'")
    with _hashable_defaults():
        if importlib.util.find_spec("fairseq") is not None:
            import fairseq

            folder = folder or Path(fairseq.__file__).parent / "examples" / "MMPT"
    if folder is None:
        raise Missing("fairseq is not installed: pip install -e '.[fairseq]', pip install --no-deps fairseq==0.12.2")
    if not (Path(folder) / "mmpt" / "__init__.py").is_file():
        raise Missing(f"{folder}: no folder mmpt there; expected examples/MMPT of fairseq")

    import transformers.models.bert.modeling_bert

    sys.modules.setdefault("transformers.modeling_bert", transformers.models.bert.modeling_bert)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    parts = SimpleNamespace(**{name: importlib.import_module(f"mmpt.{name}") for name in PARTS})
    _patch(parts.models.transformermodel)
    return parts


def write_bert(folder: Path, words: int = 200, **sizes: int | float) -> Path:
    """A BERT of random weights as `bert-base-uncased` lies on disk: config.json, vocab.txt, model.safetensors."""
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True, exist_ok=True)
    model = BertModel(BertConfig(vocab_size=words, **sizes))
    for parameter in model.parameters():
        if parameter.ndim == 1:  # a new BERT has ones and zeros there, which hide a mistake
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    pieces = [*SPECIAL, *(f"word{number}" for number in range(words - len(SPECIAL)))]
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces))
    return folder


def settings(
    bert: Path, video_layers: int = 6, segmentation: bool = False, save_dir: Path | None = None, **dataset
) -> Settings:
    """What projects/retri/videoclip/how2.yaml says, and coin_videoclip.yaml for segmentation, of model, loss and data.

    bert: a folder like that of `write_bert`; its config.json may hold input_dim, the width of a video feature.
    """
    return Settings(
        task="VideoRetriTask" if not segmentation else None,
        dataset=Settings(bert_name=str(bert), max_video_len=32, max_len=96, train_path="train.lst", **dataset),
        model=Settings(
            model_cls="MMFusionSeparateActionSegmentation" if segmentation else "MMFusionSeparate",
            video_encoder_cls="MMBertForTokenClassification" if segmentation else "MMBertForEncoder",
            text_encoder_cls="BertModel",
            num_hidden_video_layers=video_layers,
        ),
        loss=Settings(loss_cls="CrossEntropy" if segmentation else "MMContraLoss"),
        fairseq=Settings(checkpoint=Settings(save_dir=str(save_dir))),
    )


@contextmanager
def _hashable_defaults():
    """Lets dataclasses have instances of dataclasses as defaults, as they could before Python 3.11."""
    original = dataclasses.dataclass

    def dataclass(cls=None, /, **options):
        def decorate(cls):
            cls = original(cls, **options)
            cls.__hash__ = cls.__hash__ or object.__hash__
            return cls

        return decorate if cls is None else decorate(cls)

    dataclasses.dataclass = dataclass
    try:
        yield
    finally:
        dataclasses.dataclass = original


def _patch(transformermodel: ModuleType) -> None:
    from transformers import PreTrainedModel

    def init_weights(self):
        known = hasattr(self, "all_tied_weights_keys")  # post_init sets it, then calls this again
        PreTrainedModel.init_weights(self) if known else self.post_init()

    def extended_mask(self, mask, *_):
        return (1.0 - mask[:, None, None, :].to(self.dtype)) * -10000.0

    def encode(self, hidden_states, attention_mask, output_hidden_states=False, **_):
        every = [hidden_states]
        for layer in self.layer:
            every.append(layer(every[-1], attention_mask))
        return (every[-1], tuple(every)) if output_hidden_states else (every[-1],)

    for name in ("MMBertModel", "MMBertForEncoder", "MMBertForTokenClassification"):
        getattr(transformermodel, name).init_weights = init_weights
    transformermodel.MMBertModel.get_extended_attention_mask = extended_mask
    transformermodel.MMBertModel.get_head_mask = lambda self, mask, layers: mask
    transformermodel.MultiLayerAttentionMaskBertEncoder.forward = encode
