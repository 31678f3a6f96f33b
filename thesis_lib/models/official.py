"""Official checkpoints: read as they were released, checked name by name, into the models of this project.

A kind says how its files are recognised, how the sizes of a model follow from the shapes in the file, and what a small
input looks like; adding a kind is one entry in KINDS. Nothing in a file runs unless the caller says trust=True.
"""

import argparse
import hashlib
import inspect
import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from thesis_lib.models.alpro import Alpro, AlproConfig, TimeSformer
from thesis_lib.models.asformer import ASFormer
from thesis_lib.models.i3d import I3DR50, InceptionI3D
from thesis_lib.models.s3d import S3D
from thesis_lib.models.svitt import SViTT, SViTTConfig
from thesis_lib.models.videoclip import VideoCLIP, VideoCLIPConfig
from thesis_lib.models.videomae import VideoMAE

WRAPPERS = ("model_state", "state_dict", "model", "module")  # pytorchvideo; MIL-NCE, Lightning; fairseq; VideoMAE
PREFIXES = ("module.", "mmmodel.")  # DataParallel; fairseq's MMPT


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


@dataclass(frozen=True)
class Kind:
    build: Callable[..., nn.Module]
    accepts: Callable  # whose argument names a caller may give
    signature: tuple[str, ...]  # names that every file of this kind has, and no other kind; regular expressions
    sizes: Callable[[dict], dict]  # tensors by name -> the constructor arguments that their shapes tell
    example: Callable[[nn.Module], torch.Tensor]  # the output for a small input
    dropped: str = r"(?!)"  # names left out on purpose; a regular expression, this one matches nothing
    prefixes: tuple[str, ...] = ()  # that all names of some files have, besides PREFIXES
    optional: str = r"num_batches_tracked$"  # names that may be missing: early versions of torch saved none


def load_official(kind: str, path: str | Path, *, trust: bool = False, **constructor) -> tuple[nn.Module, Report]:
    """A model in eval mode with the weights of an official file, and the report of what was loaded.

    kind: one of KINDS. Sizes come from the file's shapes; constructor: only what the file cannot tell, as window= or
    head=. Raises ValueError, and gives no model, if the file is missing, damaged, no checkpoint or of another kind,
    lacks a tensor, contradicts an argument, or would run code while loading; trust=True lets it.
    """
    entry = KINDS.get(kind)
    if entry is None:
        raise ValueError(f"no official weights of kind '{kind}': expected one of {', '.join(KINDS)}")
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

    expected = model.state_dict()
    report = Report(
        kind=kind,
        matched=[name for name in expected if name in tensors],
        dropped=[name for name in tensors if name not in expected and re.search(entry.dropped, name)],
        missing=[name for name in expected if name not in tensors],
        unexpected=[name for name in tensors if name not in expected and not re.search(entry.dropped, name)] + others,
    )
    lacking = [name for name in report.missing if not re.search(entry.optional, name)]
    if lacking:
        raise ValueError(f"{path}: not a complete {kind}: lacks {_some(lacking)}")
    for name in report.matched:
        if tensors[name].shape != expected[name].shape:
            ours, theirs = list(expected[name].shape), list(tensors[name].shape)
            raise ValueError(f"{path}: {name} is {theirs} where the model has {ours}")
    model.load_state_dict({name: tensors[name].to(expected[name].dtype) for name in report.matched}, strict=False)
    return model.eval(), report


def save_official_videoclip(model: VideoCLIP, path: str | Path) -> None:
    """Write a VideoCLIP in the layout of fairseq's MMPT, which reads it; so does `load_official`, sizes included."""
    weights = {}
    for name, tensor in model.state_dict().items():
        if name.endswith("embeddings.word_embeddings.weight"):  # the buffer that goes before it in the official order
            positions = torch.arange(model.config.max_position_embeddings)[None]
            weights["mmmodel." + name.replace("word_embeddings.weight", "position_ids")] = positions
        weights["mmmodel." + name] = tensor
    checkpoint = {
        "args": None,
        "cfg": {"thesis_lib": asdict(model.config)},
        "model": weights,
        "criterion": None,
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "lr_scheduler_state": {}, "num_updates": 0}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }
    torch.save(checkpoint, path)


def main(kind: str, path: str | Path) -> None:
    """Print the load report of a file, its sha256 and what the model makes of a small random input."""
    model, report = load_official(kind, path)
    print(report)
    print(f"parameters: {sum(parameter.numel() for parameter in model.parameters()):,}")
    print(f"sha256: {hashlib.sha256(Path(path).read_bytes()).hexdigest()}")
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(0)
        output = KINDS[kind].example(model)
    if not output.isfinite().all():
        raise ValueError(f"{path}: the model's output is not finite")
    print(f"forward pass: output {list(output.shape)}, mean {output.mean():.4g}, std {output.std():.4g}")


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
    likely = (kind for kind, entry in KINDS.items() if _has(tensors, entry.signature))
    return next(likely, f"none of {', '.join(KINDS)} (it has {_some(tensors)})")


def _own_config(content):
    """The configuration that `save_official_videoclip` put into the file, or {}."""
    config = content.get("cfg")
    return config.get("thesis_lib", {}) if isinstance(config, dict) else {}


def _some(names):
    names = list(names)
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3) or "nothing"


# -- kinds -----------------------------------------------------------------------------------------------------------


def _count(tensors, pattern):
    """How many numbers follow each other from 0 where the pattern has its group."""
    return len({match.group(1) for match in map(re.compile(pattern).match, tensors) if match})


def _asformer_sizes(tensors):
    channels, input_dim, _ = tensors["encoder.conv_1x1.weight"].shape
    return {
        "num_classes": len(tensors["encoder.conv_out.weight"]),
        "input_dim": input_dim,
        "num_layers": _count(tensors, r"encoder\.layers\.(\d+)\."),
        "num_decoders": _count(tensors, r"decoders\.(\d+)\."),
        "num_f_maps": channels,
        "r1": channels // len(tensors["encoder.layers.0.att_layer.query_conv.weight"]),
        "r2": channels // len(tensors["encoder.layers.0.att_layer.value_conv.weight"]),
    }


def _i3d_r50_sizes(tensors):
    stem_dim, in_channels = tensors["blocks.0.conv.weight"].shape[:2]
    return {"stem_dim": stem_dim, "in_channels": in_channels, "num_classes": len(tensors["blocks.6.proj.weight"])}


def _i3d_inception_sizes(tensors):
    classes, in_channels = len(tensors["logits.conv3d.weight"]), tensors["Conv3d_1a_7x7.conv3d.weight"].shape[1]
    return {"in_channels": in_channels, "num_classes": classes}


def _s3d_sizes(tensors):
    stem, in_channels = tensors["conv1.conv1.weight"].shape[:2]
    vocab_size, word_dim = tensors["text_module.word_embd.weight"].shape
    return {
        "embed_dim": len(tensors["fc.weight"]),
        "channels_div": 64 // stem,
        "space_to_depth": in_channels == 24,
        "vocab_size": vocab_size,
        "word_dim": word_dim,
        "text_hidden": len(tensors["text_module.fc1.weight"]),
    }


def _videoclip_sizes(tensors):
    video = "video_encoder.bert."
    vocab_size, hidden_size = tensors[video + "embeddings.word_embeddings.weight"].shape
    classifier = tensors.get("video_encoder.classifier.weight")
    return {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": len(tensors[video + "encoder.layer.0.intermediate.dense.weight"]),
        "video_layers": _count(tensors, r"video_encoder\.bert\.encoder\.layer\.(\d+)\."),
        "text_layers": _count(tensors, r"text_encoder\.encoder\.layer\.(\d+)\."),
        "max_position_embeddings": len(tensors[video + "embeddings.position_embeddings.weight"]),
        "video_dim": tensors["video_encoder.videomlp.linear1.weight"].shape[1],
        "num_classes": 0 if classifier is None else len(classifier),
    }


def _build_videoclip(**config):
    if config["hidden_size"] != VideoCLIPConfig.hidden_size and "num_attention_heads" not in config:
        raise ValueError(f"hidden_size={config['hidden_size']} does not tell the number of heads: num_attention_heads=")
    if config["vocab_size"] != VideoCLIPConfig.vocab_size:  # not bert-base-uncased: [PAD] [UNK] [CLS] [SEP] come first
        config = {"cls_id": 2, "sep_id": 3} | config
    return VideoCLIP(VideoCLIPConfig(**config))


def _videoclip_example(model):
    features = torch.randn(1, min(8, model.config.max_video_len), model.config.video_dim)
    ids = torch.tensor([[model.config.cls_id, model.config.vocab_size - 1, model.config.sep_id]])
    return torch.cat([model.encode_video(features), model.encode_text(ids)])


def _videomae_sizes(tensors):
    """Of both layouts: that of pretraining has an encoder and a decoder, the fine-tuned one a classifier."""
    encoder = "encoder." if "encoder.patch_embed.proj.weight" in tensors else ""
    width, _, tubelet, patch, _ = tensors[encoder + "patch_embed.proj.weight"].shape
    sizes = {
        "patch_size": patch,
        "tubelet_size": tubelet,
        "hidden_size": width,
        "num_hidden_layers": _count(tensors, rf"{encoder}blocks\.(\d+)\."),
    }
    if not encoder:
        return sizes | {"num_classes": len(tensors["head.weight"])}
    return sizes | {
        "decoder_hidden_size": len(tensors["encoder_to_decoder.weight"]),
        "decoder_num_hidden_layers": _count(tensors, r"decoder\.blocks\.(\d+)\."),
        "num_classes": 0,
    }


def _timesformer_sizes(tensors, prefix=""):
    tokens, hidden_size = tensors[prefix + "pos_embed"].shape[1:]
    patch_size = tensors[prefix + "patch_embed.proj.weight"].shape[-1]
    return {
        "size": patch_size * round((tokens - 1) ** 0.5),
        "patch_size": patch_size,
        "num_frames": tensors[prefix + "time_embed"].shape[1],
        "hidden_size": hidden_size,
        "num_layers": _count(tensors, re.escape(prefix) + r"blocks\.(\d+)\."),
        "intermediate_size": len(tensors[prefix + "blocks.0.mlp.fc1.weight"]),
        "num_classes": len(tensors.get(prefix + "head.weight", ())),
    }


def _alpro_sizes(tensors):
    video = _timesformer_sizes(tensors, "visual_encoder.model.")
    vocab_size, hidden_size = tensors["text_encoder.bert.embeddings.word_embeddings.weight"].shape
    names = {"num_layers": "video_layers", "num_classes": "video_classes"}
    return {names.get(name, name): value for name, value in video.items()} | {
        "num_hidden_layers": _count(tensors, r"text_encoder\.bert\.encoder\.layer\.(\d+)\."),
        "vocab_size": vocab_size,
        "max_position_embeddings": len(tensors["text_encoder.bert.embeddings.position_embeddings.weight"]),
        "embed_dim": len(tensors["vision_proj.weight"]),
        "num_entities": len(tensors.get("prompter.video_prompt_feat", ())),
    }


def _with_heads(build):
    """`build`, which refuses to guess the number of heads of a model that is not of ViT-B's width."""

    def checked(**config):
        width = config["hidden_size"]
        if width != AlproConfig.hidden_size and "num_attention_heads" not in config:
            raise ValueError(f"hidden_size={width} does not tell the number of heads: num_attention_heads=")
        return build(**config)

    return checked


def _build_alpro(**config):
    layers = config["num_hidden_layers"]
    if layers != AlproConfig.num_hidden_layers and "fusion_layer" not in config:
        raise ValueError(f"num_hidden_layers={layers} does not tell where fusion begins: fusion_layer=")
    return Alpro(AlproConfig(**config))


def _alpro_example(model):
    config = model.config
    clip = torch.randn(1, 3, config.num_frames, config.size, config.size)
    ids = torch.arange(config.vocab_size - 3, config.vocab_size)[None]
    return torch.cat([model.embed_video(clip), model.embed_text(ids, torch.ones_like(ids, dtype=torch.bool))])


def _svitt_sizes(tensors):
    layer, bert = "vision_encoder.encoder.layer.", "text_encoder.bert."
    bias = layer + "0.attention.attention.relative_position_bias.relative_position_"
    distances, heads = tensors[bias + "bias_table"].shape
    patches = len(tensors[bias + "index"]) - 1
    sides = [side for side in range(1, patches + 1) if patches % side**2 == 0]
    fits = [side for side in sides if (2 * patches // side**2 - 1) * (2 * side - 1) ** 2 + 3 == distances]
    if not fits:
        raise ValueError(f"{bias}bias_table has {distances} rows, which no {patches} patches in square frames have")
    width, _, patch_size, _ = tensors["vision_encoder.embeddings.patch_embeddings.projection.weight"].shape
    vocab_size, _ = tensors[bert + "embeddings.word_embeddings.weight"].shape
    text_layers = _count(tensors, r"text_encoder\.bert\.encoder\.layer\.(\d+)\.")
    return {
        "frames": patches // fits[0] ** 2,
        "image_size": patch_size * fits[0],
        "patch_size": patch_size,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": len(tensors[layer + "0.intermediate.dense.weight"]),
        "video_layers": _count(tensors, r"vision_encoder\.encoder\.layer\.(\d+)\."),
        "vocab_size": vocab_size,
        "text_layers": text_layers,
        "fusion_layer": text_layers - _count(tensors, r"text_encoder\.bert\.encoder\.layer\.(\d+)\.crossattention"),
        "max_position_embeddings": len(tensors[bert + "embeddings.position_embeddings.weight"]),
        "embed_dim": len(tensors["vision_proj.weight"]),
    }


def _svitt_example(model):
    size, last = model.config.image_size, model.config.vocab_size - 1
    states, pooled = model.encode_video(torch.randn(1, 3, model.config.frames, size, size))
    words = model.encode_text(torch.full((1, 4), last), torch.ones(1, 4, dtype=torch.bool))
    fused = model.fuse(words, torch.ones(1, 4, dtype=torch.bool), states)[:, 0]
    return torch.cat([model.project_video(pooled), model.project_text(words), fused], dim=1)


KINDS = {
    "asformer": Kind(
        build=ASFormer,
        accepts=ASFormer,
        signature=("encoder.conv_1x1.weight", "encoder.layers.0.att_layer.query_conv.weight"),
        sizes=_asformer_sizes,
        example=lambda model: model(torch.randn(1, model.encoder.conv_1x1.in_channels, 64)),
    ),
    "i3d_r50": Kind(
        build=I3DR50,
        accepts=I3DR50,
        signature=("blocks.0.conv.weight", "blocks.1.res_blocks.0.branch2.conv_a.weight"),
        sizes=_i3d_r50_sizes,
        example=lambda model: model.logits(torch.randn(1, model.blocks[0].conv.in_channels, 8, 64, 64)),
    ),
    "i3d_inception": Kind(
        build=InceptionI3D,
        accepts=InceptionI3D,
        signature=("Conv3d_1a_7x7.conv3d.weight", "Mixed_3b.b1b.conv3d.weight"),
        sizes=_i3d_inception_sizes,
        example=lambda model: model(torch.rand(1, model.Conv3d_1a_7x7.conv3d.in_channels, 9, 64, 64)),
    ),
    "s3d_howto100m": Kind(
        build=S3D,
        accepts=S3D,
        signature=("conv1.conv1.weight", "mixed_3b.conv_b1_b.conv2.weight"),
        sizes=_s3d_sizes,
        example=lambda model: torch.cat(model(torch.rand(1, 3, 8, 64, 64), torch.ones(1, 16, dtype=torch.long))),
    ),
    "videoclip": Kind(
        build=_build_videoclip,
        accepts=VideoCLIPConfig,
        signature=("video_encoder.videomlp.linear1.weight", "text_encoder.embeddings.word_embeddings.weight"),
        sizes=_videoclip_sizes,
        example=_videoclip_example,
        dropped=r"embeddings\.position_ids$",
        optional=r"\.pooler\.",
    ),
    "videomae": Kind(
        build=VideoMAE,
        accepts=VideoMAE,
        signature=(r"(encoder\.)?patch_embed\.proj\.weight", r"(encoder\.)?blocks\.0\.attn\.q_bias"),
        sizes=_videomae_sizes,
        prefixes=("encoder.", "backbone."),  # of fine-tuned files; those of pretraining have a decoder too
        example=lambda model: model(torch.randn(1, 3, 2 * model.tubelet, 2 * model.patch, 2 * model.patch)),
    ),
    "alpro": Kind(
        build=_with_heads(_build_alpro),
        accepts=AlproConfig,
        signature=("visual_encoder.model.blocks.0.temporal_fc.weight", "vision_proj.weight"),
        sizes=_alpro_sizes,
        example=_alpro_example,
        # Of the prompter nothing but its two towers computes; pictures have prompts of their own.
        dropped=r"embeddings\.position_ids$|image_prompt_feat$|^video_prompt_feat$|"
        r"^prompter\.(itm_head|text_encoder\.(cls|bert\.encoder\.layer))\.",
    ),
    "timesformer": Kind(
        build=_with_heads(TimeSformer),
        accepts=TimeSformer,
        signature=("blocks.0.temporal_fc.weight", "time_embed"),
        sizes=_timesformer_sizes,
        prefixes=("visual_encoder.", "model."),  # in ALPRO's files
        example=lambda model: model.encode_video_tokens(torch.randn(1, model.patch_embed.proj.in_channels, 4, 64, 64)),
    ),
    "svitt": Kind(
        build=lambda **config: SViTT(SViTTConfig(**config)),
        accepts=SViTTConfig,
        signature=("vision_encoder.embeddings.cls_token", "vision_encoder.encoder.layer.0.lambda_1", "itm_head.weight"),
        sizes=_svitt_sizes,
        example=_svitt_example,
        dropped=r"embeddings\.position_ids$",
    ),
}
