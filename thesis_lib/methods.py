"""The pretraining systems that read frames and words, each a line: what they are called and which recipe makes them.

A recipe is a module with `train(folder, *, howto, vocab, ...)` and `load(path, vocab) -> encoder`. An encoder is a
torch module with `frames`, `seconds` and `size` of its clips, `dim`, `features(clips) -> [B, dim]`, and, where
`has_text`, `embed(clips)` and `embed_texts(texts)` -> unit vectors; clips are float [B, 3, T, H, W], RGB in 0..1.
To add a system: a model in models/, a recipe in training/, and a line here. A notebook may set the parameters of its
recipe and show what it does; without one they are the defaults of `train`, and the summary adds its rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from torch import nn

from thesis_lib import params, segmentation


@dataclass(frozen=True)
class Method:
    title: str
    recipe: str  # module of thesis_lib.training
    modalities: str
    notebook: str = ""  # whose parameters are those of its recipe; "" is the recipe's own defaults
    changed: dict = field(default_factory=dict)  # arguments of the recipe that make it this system
    untrained: dict = field(default_factory=lambda: {"num_steps": 1, "lr": 0.0})  # that leave its weights as they start


VIDEOCLIP = "videoclip"  # reads features, not frames; has stages of its own
METHODS = {
    "videomae": Method("VideoMAE", "videomae", "video", "A1_videomae"),
    "alpro": Method(
        "ALPRO", "alpro", "video, text", "A2_alpro", untrained={"num_steps": 1, "prompter_steps": 1, "lr": 0.0}
    ),
    "svitt": Method("SViTT", "svitt", "video, text", "A3_svitt", {"objective": "itc"}),
    "svitt_ego": Method("SViTT-Ego", "svitt", "video, text", "A3_svitt", {"objective": "egonce"}),
}


def find(name: str) -> Method:
    """A system by its name. Raises ValueError for one that is not known."""
    if name not in METHODS:
        raise ValueError(f"no method '{name}': expected one of {', '.join([VIDEOCLIP, *METHODS])}")
    return METHODS[name]


def has_text(name: str) -> bool:
    """Whether a system has a text tower: without one it cannot be asked by the names of classes."""
    return name == VIDEOCLIP or "text" in find(name).modalities


def of_notebook(notebook: str) -> list[str]:
    """The systems whose recipes have their parameters from a notebook; "": those that have none."""
    return [name for name, method in METHODS.items() if method.notebook == notebook]


def there() -> list[str]:
    """The systems of the report: all whose notebook there is, or that need none."""
    return [name for name, method in METHODS.items() if method.notebook in ("", *params.notebooks())]


def recipe(name: str):
    """The module with `train` and `load` of a system."""
    return import_module(f"thesis_lib.training.{find(name).recipe}")


def load(name: str, path: str | Path, vocab: str | Path) -> nn.Module:
    """The encoder of a system, from a folder that its recipe wrote or from an official file."""
    return recipe(name).load(path, vocab)


def class_vectors(encoder: nn.Module, names: Sequence[str], prompts: str) -> torch.Tensor:
    """[C, E] unit vectors of class names in the style of `segmentation.prompts`.

    Those of several phrases are averaged and brought to unit length again: these encoders compare directions.
    """
    vectors = encoder.embed_texts(segmentation.prompts(names, prompts))
    return nn.functional.normalize(vectors.unflatten(0, (len(names), -1)).mean(1), dim=1)
