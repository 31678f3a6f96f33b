"""Official checkpoints: read as they were released, checked name by name, into the models of this project.

A kind says how its files are recognised, how the sizes of a model follow from the shapes in the file, and what a small
input looks like; adding one is an entry in OFFICIAL beside its network and a line in KINDS. Nothing in a file runs
unless the caller says trust=True.
"""

import argparse
import hashlib
import inspect
import pickletools
import re
import zipfile
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from thesis_lib.models.kinds import Kind

# Kind -> the module of thesis_lib.models with its network. It is found by name, which `runs.fingerprint` does not see:
# who loads a kind imports its network as well, so that a stage hangs on that network and on no other.
KINDS = {
    "asformer": "asformer",
    "i3d_r50": "i3d",
    "i3d_inception": "i3d",
    "s3d_howto100m": "s3d",
    "videoclip": "videoclip",
    "videomae": "videomae",
    "alpro": "alpro",
    "timesformer": "alpro",
    "svitt": "svitt",
}
WRAPPERS = ("model_state", "state_dict", "model", "module")  # pytorchvideo; MIL-NCE, Lightning; fairseq; VideoMAE
PREFIXES = ("module.", "mmmodel.")  # DataParallel; fairseq's MMPT
NONE = r"(?!)"  # the pattern of no name


@dataclass(frozen=True)
class Report:
    """What became of every tensor, by its name without wrapper and prefix."""

    kind: str
    matched: list[str]
    dropped: list[str]  # left out on purpose: nothing computes with them
    missing: list[str]  # not in the file, and harmless: the model has its own
    unexpected: list[str]  # in the file, unknown to the model

    def __str__(self):
        lines = [f"{self.kind}: {len(self.matched)} tensors matched"]
        for label in ("dropped", "missing", "unexpected"):
            names = getattr(self, label)
            lines.append(f"{label}: {len(names)}" + "".join(f"\n    {name}" for name in names))
        return "\n".join(lines)


def load_official(kind: str, path: str | Path, *, trust: bool = False, **constructor) -> tuple[nn.Module, Report]:
    """A model in eval mode with the weights of an official file, and the report of what was loaded.

    kind: one of KINDS; the caller imports its network. Sizes come from the file's shapes; constructor: only what the
    file cannot tell, as window= or head=. Raises ValueError, and gives no model, if the file is missing, damaged, no
    checkpoint or of another kind, lacks a tensor, contradicts an argument, or would run code while loading; trust=True
    lets it.
    """
    if kind not in KINDS:
        raise ValueError(f"no official weights of kind '{kind}': expected one of {', '.join(KINDS)}")
    entry = _entry(kind)
    known = inspect.signature(entry.accepts).parameters.keys()
    unknown = sorted(constructor.keys() - known)
    if unknown:
        raise ValueError(f"{kind} has no argument '{unknown[0]}': expected one of {', '.join(known)}")

    content = read_checkpoint(Path(path), trust)
    tensors, others, found_as = unwrap(Path(path), content, PREFIXES + entry.prefixes)
    if not _has(tensors, entry.signature):
        raise ValueError(f"{path}: not {kind}: {found_as}: looks like {looks_like(tensors)}")
    try:
        sizes = entry.sizes(tensors)
    except KeyError as error:
        raise ValueError(f"{path}: not a complete {kind}: {found_as}, lacks {error.args[0]}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for name, value in constructor.items():
        if name in sizes and sizes[name] != value:
            raise ValueError(f"{path}: {name}={value} was asked for, the file has {name}={sizes[name]}")
    settings = {name: value for name, value in _own_config(content).items() if name in known}
    try:
        model = entry.build(**settings | sizes | constructor)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None

    report = place(model, tensors, path, kind, optional=entry.optional, dropped=entry.dropped)
    return model.eval(), replace(report, unexpected=report.unexpected + others)


def place(
    model: nn.Module,
    tensors: dict[str, torch.Tensor],
    path: str | Path,
    kind: str,
    *,
    optional: str = NONE,
    dropped: str = NONE,
    derived: str = NONE,
    strict: bool = False,
    wanted: str = "",
    sizes: str = "",
) -> Report:
    """Copies tensors into a model by their names, and reports what became of each.

    Patterns of names: optional, what the file may lack; dropped, what nothing computes with; derived, buffers that
    follow from the sizes of the model, dropped too. Raises ValueError before anything is copied where a tensor is
    lacking, of another shape, or, if strict, unexpected; wanted and sizes: what to do then, for the messages.
    """
    expected = {name: x for name, x in model.state_dict().items() if not re.search(derived, name)}
    unused = [name for name in tensors if name not in expected]
    left_out = [name for name in unused if re.search(dropped, name) or re.search(derived, name)]
    report = Report(
        kind=kind,
        matched=[name for name in expected if name in tensors],
        dropped=left_out,
        missing=[name for name in expected if name not in tensors],
        unexpected=[name for name in unused if name not in left_out],
    )
    lacking = [name for name in report.missing if not re.search(optional, name)]
    if lacking:
        raise ValueError(f"{path}: not a complete {kind}: lacks {_some(lacking)}{wanted}")
    if strict and report.unexpected:
        raise ValueError(f"{path}: the model has no place for {_some(report.unexpected)}{wanted}")
    for name in report.matched:
        if tensors[name].shape != expected[name].shape:
            ours, theirs = list(expected[name].shape), list(tensors[name].shape)
            raise ValueError(f"{path}: {name} is {theirs} where the model has {ours}{sizes}")
    model.load_state_dict({name: tensors[name].to(expected[name].dtype) for name in report.matched}, strict=False)
    return report


def main(kind: str, path: str | Path) -> None:
    """Print the load report of a file, its sha256 and what the model makes of a small random input."""
    model, report = load_official(kind, path)
    print(report)
    print(f"parameters: {sum(parameter.numel() for parameter in model.parameters()):,}")
    print(f"sha256: {hashlib.sha256(Path(path).read_bytes()).hexdigest()}")
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        output = _entry(kind).example(model)
    if not output.isfinite().all():
        raise ValueError(f"{path}: the model's output is not finite")
    print(f"forward pass: output {list(output.shape)}, mean {output.mean():.4g}, std {output.std():.4g}")


def _entry(kind) -> Kind:
    return import_module(f"thesis_lib.models.{KINDS[kind]}").OFFICIAL[kind]


# -- reading ---------------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path, trust: bool = False):
    """Whatever torch.save wrote into a file, on the CPU."""
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    with open(path, "rb") as file:
        start = file.read(4)
    zipped = start == b"PK\x03\x04"
    if not zipped and start[:1] != b"\x80":  # how pickle begins, and the files of early torch with it
        raise ValueError(f"{path}: not a checkpoint: torch.save did not write it")
    if zipped and not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: truncated or damaged: download or copy it again")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # the arguments of a training run, plain data
            return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # torch raises half a dozen types here
        raise ValueError(f"{path}: {_why_unreadable(path, error)}") from None


def read_weights(path: Path):
    """What `read_checkpoint` reads, or the tensors of a .safetensors file by name."""
    if path.suffix != ".safetensors":
        return read_checkpoint(path)
    if not path.is_file():
        raise ValueError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        return load_file(path)
    except SafetensorError:
        raise ValueError(f"{path}: truncated or damaged: download or copy it again") from None


def _why_unreadable(path, error):
    message = str(error)
    by_torch = "Unsupported operand" not in message  # torch.save writes no newer pickle than it reads
    wanted = re.findall(r"GLOBAL ([\w.]+)", message) if by_torch else _globals(path)
    if wanted and not (by_torch and _cut_short(path, wanted[0])):
        return f"refused: it wants to run code while loading ({wanted[0]}); trust=True lets it, if you trust its source"
    if not by_torch:
        return "not a checkpoint: a pickle that torch.save did not write"
    if "data.pkl" in message or "not in a subdirectory" in message:
        return "not a checkpoint: a zip file that torch.save did not write"
    if "TorchScript" in message:
        return "a TorchScript program, not weights"
    if isinstance(error, (ImportError, AttributeError)):  # of the code that a trusted file wants
        return f"not readable here: {message.splitlines()[0]}"
    return "truncated or damaged: download or copy it again"


def _cut_short(path, name):
    """Whether a bare pickle ends in the middle of a name, which then looks like an unknown one."""
    if zipfile.is_zipfile(path):
        return False
    return "\n".join([*name.rpartition(".")[::2], ""]).encode() not in path.read_bytes()  # as module\nname\n


def _globals(path):
    """The functions and classes that a pickle names, besides those of tensors; read without running it."""
    names, strings = [], []
    try:
        for operation, argument, _ in pickletools.genops(path.read_bytes()):
            if "UNICODE" in operation.name:
                strings.append(argument)
            elif operation.name == "STACK_GLOBAL":
                names.append(".".join(strings[-2:]))
    except ValueError:
        pass  # damaged from here on
    return [name for name in names if not name.startswith(("torch.", "collections."))]


def unwrap(path: Path, content, prefixes: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], list[str], str]:
    """(tensors by name without prefix, names of what is no tensor, a description for error messages)."""
    wrapper = None
    if isinstance(content, dict) and not any(isinstance(value, torch.Tensor) for value in content.values()):
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), dict)), None)
        if wrapper is None:
            raise ValueError(f"{path}: not a model's weights: a dictionary with {_some(map(str, content))}")
        content = content[wrapper]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not a model's weights: holds one {type(content).__name__}")
    content = {str(name): value for name, value in content.items()}
    prefix = ""
    while taken := next((p for p in prefixes if content and all(name.startswith(p) for name in content)), None):
        content = {name.removeprefix(taken): value for name, value in content.items()}
        prefix += taken
    tensors = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    found_as = f"{len(tensors)} tensors" + f" in '{wrapper}'" * bool(wrapper) + f" with prefix {prefix}" * bool(prefix)
    return tensors, [name for name in content if name not in tensors], found_as


def _has(tensors, signature):
    return all(any(re.fullmatch(pattern, name) for name in tensors) for pattern in signature)


def looks_like(tensors: dict) -> str:
    """The kind that tensors of these names are, for error messages."""
    likely = (kind for kind in KINDS if _has(tensors, _entry(kind).signature))
    return next(likely, f"none of {', '.join(KINDS)} (it has {_some(tensors)})")


def _own_config(content):
    """The configuration that `videoclip.save_official_videoclip` put into the file, or {}."""
    config = content.get("cfg")
    return config.get("thesis_lib", {}) if isinstance(config, dict) else {}


def _some(names):
    names = list(names)
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3) or "nothing"
