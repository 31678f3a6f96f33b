"""VideoMAE learns from frames alone: the hidden cubes of clips of narrated videos, of which nobody hears a word.

Tong et al., VideoMAE, NeurIPS 2022, table 9; MCG-NJU/VideoMAE run_mae_pretraining.py, PRETRAIN.md: AdamW with betas 0.9
and 0.95 and weight decay 0.05, warm-up, cosine decay, crops of four scales (`crops`). Here crops are taken from the
middle square of a wide picture where it is larger than they need.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from thesis_lib.masking import masks
from thesis_lib.models.videomae import MEAN, STD, VideoMAE
from thesis_lib.training import distributed
from thesis_lib.training.loop import choose_device, cosine_decay, fit, num_epochs_of, numbered, seed_everything
from thesis_lib.training.narrated_clips import NarratedClips

RELEASED = {"frames": 16, "seconds": 64 / 30, "size": 224}  # clips of the files for Kinetics: every fourth frame of 30


def train(
    folder: Path,
    *,
    howto: Path,
    vocab: Path | None = None,
    num_steps: int,
    batch_size: int,
    accumulate: int = 1,
    lr: float,
    warmup: int,
    last_lr: float = 0.0,
    weight_decay: float = 0.05,
    masking: str = "tube",
    ratio: float = 0.9,
    normalise: bool = True,
    frames: int,
    seconds: float,
    size: int,
    patch: int,
    tubelet: int = 2,
    width: int,
    layers: int,
    heads: int,
    decoder_width: int,
    decoder_layers: int,
    decoder_heads: int,
    num_videos: int = 0,
    on_demand: bool = False,
    films: Path | str = "",
    crop_scales: Sequence[float] = (1.0,),
    flip: bool = False,
    loading_workers: int = 0,
    precision: str = "fp32",
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Trains VideoMAE on the clips of howto/videos; `load(folder)` gives its encoder back.

    vocab: not read, here as in the recipes that learn from words · accumulate: batches a step, which processes that
    torchrun starts share (published: 1024 or 2048 clips a step, lr 1.5e-4 for each 256 of them) · lr rises for `warmup`
    steps and falls as a cosine to last_lr (published: 1e-5) · masking, ratio: see
    `masking.masks` · normalise: whether targets are normalised in each cube · frames, seconds, size, num_videos,
    on_demand, films, crop_scales, flip: see NarratedClips; clips are those around captions, whose texts are ignored.
    Published: crop_scales [1, 0.875, 0.75, 0.66]; flip is on in the paper for Kinetics and off in the released code.
    history.csv has the loss: mean square error over hidden cubes; 1 is the mean of each cube, if they are normalised.
    """
    seed_everything(seed)
    device = choose_device(device)
    source = dict(num_videos=num_videos, on_demand=on_demand, films=films, crop_scales=crop_scales, flip=flip)
    clips = NarratedClips(howto, frames=frames, seconds=seconds, size=size, **source)
    config = dict(patch_size=patch, tubelet_size=tubelet, hidden_size=width, num_hidden_layers=layers)
    config |= dict(num_attention_heads=heads, decoder_hidden_size=decoder_width)
    config |= dict(decoder_num_hidden_layers=decoder_layers, decoder_num_attention_heads=decoder_heads)
    if distributed.rank() == 0:
        clip = {"frames": frames, "seconds": seconds, "size": size}
        (Path(folder) / "config.json").write_text(json.dumps({"model": config, "clip": clip}, indent=1))
    model = VideoMAE(**config).to(device)
    grid = model.grid(torch.empty(1, 3, frames, size, size))

    def batches(epoch: int) -> list[tuple[int, int, int]]:
        return [(*step, part) for step in numbered(epoch, num_steps) for part in range(accumulate)]

    def load(item: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([seed, *item])
        chosen, _ = clips.draw(rng, batch_size)
        return chosen, torch.from_numpy(masks(masking, grid, ratio, rng, batch_size))

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        clip, mask = normalised(batch[0].movedim(2, 1).float() / 255), batch[1]
        return F.mse_loss(model.reconstruct(clip, mask).float(), model.targets(clip, mask, normalise))

    optimizer = torch.optim.AdamW(decayed(model, weight_decay), lr=lr, betas=(0.9, 0.95), fused=True)
    fit(
        folder,
        model=model,
        optimizer=optimizer,
        scheduler=cosine_decay(optimizer, num_steps, warmup, last_lr),
        batches=batches,
        load=load,
        loss=loss,
        num_epochs=num_epochs_of(num_steps),
        accumulate=accumulate,
        precision=precision,
        seed=seed,
        workers=loading_workers,
        name=f"videomae {masking} {ratio:g}",
    )


class Encoder(nn.Module):
    """Clips [B, 3, frames, size, size], RGB in 0..1, of so many seconds -> a vector each; no text tower."""

    has_text = False

    def __init__(self, model: VideoMAE, frames: int, seconds: float, size: int):
        super().__init__()
        self.model, self.frames, self.seconds, self.size = model, frames, seconds, size
        self.dim = model.width

    def features(self, clips: torch.Tensor) -> torch.Tensor:
        """[B, dim]: the mean of all tokens of a clip, none hidden."""
        shape = (3, self.frames, self.size, self.size)
        if clips.shape[1:] != shape:
            raise ValueError(f"this VideoMAE was trained on clips {list(shape)}, not {list(clips.shape[1:])}")
        return self.model(normalised(clips))

    def embed(self, clips: torch.Tensor) -> torch.Tensor:
        raise ValueError("VideoMAE has no text tower, so there is no space that it shares with text: take features")

    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        raise ValueError("VideoMAE has no text tower: it cannot be asked by the names of classes")


def load(path: str | Path, vocab: Path | None = None) -> Encoder:
    """The encoder, in eval mode, that `train` left in a folder, or that of a checkpoint file in the official layout.

    Files do not tell their clips: those of a file are taken to be RELEASED. vocab: not read.
    """
    path = Path(path)
    if path.is_file():
        from thesis_lib.models.official import load_official

        return Encoder(load_official("videomae", path)[0], **RELEASED).eval()
    config = json.loads((path / "config.json").read_text())
    model = VideoMAE(**config["model"])
    model.load_state_dict(torch.load(path / "weights.pt", map_location="cpu", weights_only=True))
    return Encoder(model, **config["clip"]).eval()


def normalised(clips: torch.Tensor) -> torch.Tensor:
    """[B, 3, T, H, W], RGB in 0..1 -> what the model reads."""
    mean, std = (clips.new_tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    return (clips - mean) / std


def decayed(model: VideoMAE, weight_decay: float) -> list[dict]:
    """Parameter groups: weight decay for matrices, none for biases, norms and the mask token, as published."""
    matrices = {name for name, parameter in model.named_parameters() if parameter.dim() > 1} - {"mask_token"}
    groups = {weight_decay: [], 0.0: []}
    for name, parameter in model.named_parameters():
        groups[weight_decay if name in matrices else 0.0].append(parameter)
    return [{"params": parameters, "weight_decay": decay} for decay, parameters in groups.items()]
