"""S3D learns from narrated videos alone: a clip and the captions nearest to it, MIL-NCE.

Miech et al., End-to-End Learning of Visual Representations from Uncurated Instructional Videos, CVPR 2020;
antoine77340/MIL-NCE_HowTo100M main_distributed.py: Adam, warm-up, cosine decay, K candidate captions a clip.
"""

import json
from pathlib import Path

import numpy as np
import torch

from thesis_lib.data.howto100m import Captions, nearest_captions, read_captions
from thesis_lib.data.text import S3DWords
from thesis_lib.data.video import frame_rate, read_frames
from thesis_lib.extraction import prepare
from thesis_lib.losses import mil_nce_loss
from thesis_lib.models.s3d import S3D
from thesis_lib.training import distributed
from thesis_lib.training.loop import choose_device, cosine_decay, fit, num_epochs_of, numbered, seed_everything
from thesis_lib.training.pairs import permute_texts


def train(
    folder: Path,
    *,
    howto: Path,
    num_steps: int,
    batch_size: int,
    candidates: int,
    lr: float,
    warmup: int,
    channels_div: int,
    embed_dim: int,
    frames: int,
    size: int,
    num_videos: int = 0,
    captions: str = "true",
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Trains S3D on howto/videos/*.avi and howto/raw_caption.json; `load(folder)` gives it back.

    frames: of a clip, consecutive · size: pixels of the short side · candidates: captions nearest to the clip's middle
    that count as its positives (K) · num_videos: 0 for all · captions="permuted" exchanges the texts of all captions
    with each other, which leaves nothing to learn: the control.
    """
    seed_everything(seed)
    device = choose_device(device)
    said = read_captions(Path(howto) / "raw_caption.json")
    if captions == "permuted":
        said = permute_texts(said, seed)
    names = [name for name in sorted(said) if len(said[name])][: num_videos or None]
    films = {name: read_film(Path(howto) / f"videos/{name}.avi", size) for name in names}
    names = [name for name in names if len(films[name]) >= frames]
    rates = {name: frame_rate(Path(howto) / f"videos/{name}.avi") for name in names}

    words = S3DWords.of(text for name in names for text in said[name].texts)
    texts = {name: words.encode(said[name].texts) for name in names}
    config = dict(
        embed_dim=embed_dim, channels_div=channels_div, vocab_size=len(words) + 1, word_dim=64, text_hidden=128
    )
    if distributed.rank() == 0:
        (Path(folder) / "config.json").write_text(json.dumps({"model": config, "words": words.words, "size": size}))
    model = S3D(**config).to(device, memory_format=torch.channels_last_3d)  # a quarter faster on a CPU
    for head in (model.fc, model.text_module.fc2):  # small dot products leave the plateau at log(2 B) sooner
        torch.nn.init.normal_(head.weight, std=0.02)

    share = distributed.world_size()
    if batch_size % share:
        raise ValueError(f"batch_size={batch_size} cannot be shared by {share} processes: choose a multiple")

    def batches(epoch: int) -> list[tuple[int, int, int]]:
        return [(*step, part) for step in numbered(epoch, num_steps) for part in range(share)]

    def load(item: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        *step, part = item
        rng = np.random.default_rng([seed, *step])
        chosen = [names[k] for k in rng.integers(len(names), size=batch_size)]
        starts = [int(rng.integers(len(films[name]) - frames + 1)) for name in chosen]
        own = list(zip(chosen, starts, strict=True))[part * batch_size // share : (part + 1) * batch_size // share]
        clips = torch.stack([films[name][start : start + frames] for name, start in own])
        bags = [texts[name][bag(said[name], (start + frames / 2) / rates[name], candidates)] for name, start in own]
        return clips, torch.from_numpy(np.concatenate(bags))

    def loss(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        clips, ids = batch
        video, text = model.encode_video(clips.movedim(2, 1).float() / 255), model.encode_text(ids)
        return mil_nce_loss(distributed.gather(video), distributed.gather(text))

    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    fit(
        folder,
        model=model,
        optimizer=optimizer,
        scheduler=cosine_decay(optimizer, num_steps, warmup),
        batches=batches,
        load=load,
        accumulate=share,
        seed=seed,
        loss=loss,
        num_epochs=num_epochs_of(num_steps),
        name="s3d" if captions == "true" else f"s3d {captions} {seed}",
    )


def bag(said: Captions, time: float, candidates: int) -> np.ndarray:
    """Indices of the captions that count as positives of a clip around `time` seconds."""
    return nearest_captions(said.starts, said.ends, time, candidates)


def read_film(path: Path, size: int) -> torch.Tensor:
    """A whole small video [T, 3, H, W] uint8, as `extraction.prepare` scales it."""
    frames = torch.from_numpy(np.stack([frame for _, frame in read_frames(path, damaged="repeat")]))
    return (prepare(frames, size) * 255).round().byte()


def load(folder: Path) -> tuple[S3D, S3DWords, int]:
    """(model in eval mode, its word list, the size in pixels it was trained at)."""
    config = json.loads((Path(folder) / "config.json").read_text())
    model = S3D(**config["model"])
    model.load_state_dict(torch.load(Path(folder) / "weights.pt", weights_only=True))
    return model.eval(), S3DWords(config["words"]), config["size"]
