"""S3D learns from narrated videos alone: a clip and the captions nearest to it, MIL-NCE.

Miech et al., End-to-End Learning of Visual Representations from Uncurated Instructional Videos, CVPR 2020;
antoine77340/MIL-NCE_HowTo100M main_distributed.py: Adam, warm-up, cosine decay, K candidate captions a clip.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch

from thesis_lib.data.howto100m import Captions, nearest_captions, read_captions
from thesis_lib.data.text import S3DWords
from thesis_lib.data.video import frame_rate, read_frames
from thesis_lib.extraction import prepare
from thesis_lib.losses import mil_nce_loss
from thesis_lib.models.s3d import S3D
from thesis_lib.training.loop import choose_device, cosine_decay, fit, seed_everything
from thesis_lib.training.pairs import permute_texts

STEPS_PER_EPOCH = 25  # of the log and of the checkpoints: random clips know no epochs


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
    (Path(folder) / "config.json").write_text(json.dumps({"model": config, "words": words.words, "size": size}))
    model = S3D(**config).to(device, memory_format=torch.channels_last_3d)  # a quarter faster on a CPU
    for head in (model.fc, model.text_module.fc2):  # small dot products leave the plateau at log(2 B) sooner
        torch.nn.init.normal_(head.weight, std=0.02)

    def batches(epoch: int):
        rng = np.random.default_rng([seed, epoch])
        for _ in range(min(STEPS_PER_EPOCH, num_steps - (epoch - 1) * STEPS_PER_EPOCH)):
            chosen = [names[k] for k in rng.integers(len(names), size=batch_size)]
            starts = [int(rng.integers(len(films[name]) - frames + 1)) for name in chosen]
            clips = torch.stack([films[n][s : s + frames] for n, s in zip(chosen, starts, strict=True)])
            middles = [(start + frames / 2) / rates[name] for name, start in zip(chosen, starts, strict=True)]
            bags = [texts[n][bag(said[n], m, candidates)] for n, m in zip(chosen, middles, strict=True)]
            yield clips.to(device).movedim(2, 1).float() / 255, torch.from_numpy(np.concatenate(bags)).to(device)

    def loss(batch):
        clips, ids = batch
        return mil_nce_loss(model.encode_video(clips), model.encode_text(ids))

    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    fit(
        folder,
        model=model,
        optimizer=optimizer,
        scheduler=cosine_decay(optimizer, num_steps, warmup),
        batches=batches,
        loss=loss,
        num_epochs=math.ceil(num_steps / STEPS_PER_EPOCH),
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
