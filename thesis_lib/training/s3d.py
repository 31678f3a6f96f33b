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
from thesis_lib.losses import mil_nce_loss
from thesis_lib.models.s3d import S3D
from thesis_lib.training import distributed
from thesis_lib.training.films import MOST_UNREADABLE, read_films
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
    fps: float = 0.0,
    films: Path | str = "",
    word_dim: int = 64,
    text_hidden: int = 128,
    loading_workers: int = 0,
    precision: str = "fp32",
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Trains S3D on howto/videos/ and howto/raw_caption.json; `load(folder)` gives it back.

    frames: of a clip · size: pixels of the short side · candidates: captions nearest to the clip's middle that count
    as its positives (K) · num_videos: 0 for all · captions="permuted" exchanges the texts of all captions with each
    other, which leaves nothing to learn: the control.
    fps: 0 = small videos, decoded whole, of whose frames a clip takes consecutive ones, or those that `films.decode`
    left in the folder `films` · else clips are decoded where they are needed, at so many frames a second (published:
    16 frames at 5), by `loading_workers` processes.

    Processes that torchrun starts share a batch; each clip has the texts of the whole batch as negatives. Batch norm
    sees the clips of its own process, as in the official code. Videos that cannot be read are named and passed over.
    """
    seed_everything(seed)
    device = choose_device(device)
    said = read_captions(Path(howto) / "raw_caption.json")
    if captions == "permuted":
        said = permute_texts(said, seed)
    names = [name for name in sorted(said) if len(said[name])][: num_videos or None]
    ends = {name: said[name].ends.max() for name in names}
    films = read_films(howto, names, size, fps, ends, frames, decoded=films)
    names = list(films)

    words = S3DWords.of(text for name in names for text in said[name].texts)
    texts = {name: words.encode(said[name].texts) for name in names}
    config = dict(embed_dim=embed_dim, channels_div=channels_div, vocab_size=len(words) + 1)
    config |= dict(word_dim=word_dim, text_hidden=text_hidden)
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
        starts = [int(rng.integers(films[name].length - frames + 1)) for name in chosen]
        own = list(zip(chosen, starts, strict=True))[part * batch_size // share : (part + 1) * batch_size // share]
        clips, bags = [], []
        for name, start in own:
            for _ in range(MOST_UNREADABLE):
                if (clip := films[name].clip(start, frames)) is not None:
                    break
                name = names[rng.integers(len(names))]
                start = int(rng.integers(films[name].length - frames + 1))
            else:
                raise ValueError(f"{Path(howto) / 'videos'}: {MOST_UNREADABLE} videos in a row cannot be read")
            clips.append(clip)
            bags.append(texts[name][bag(said[name], (start + frames / 2) / films[name].rate, candidates)])
        return torch.stack(clips), torch.from_numpy(np.concatenate(bags))

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
        precision=precision,
        seed=seed,
        workers=loading_workers,
        loss=loss,
        num_epochs=num_epochs_of(num_steps),
        name="s3d" if captions == "true" else f"s3d {captions} {seed}",
    )


def bag(said: Captions, time: float, candidates: int) -> np.ndarray:
    """Indices of the captions that count as positives of a clip around `time` seconds."""
    return nearest_captions(said.starts, said.ends, time, candidates)


def load(folder: Path) -> tuple[S3D, S3DWords, int]:
    """(model in eval mode, its word list, the size in pixels it was trained at)."""
    config = json.loads((Path(folder) / "config.json").read_text())
    model = S3D(**config["model"])
    model.load_state_dict(torch.load(Path(folder) / "weights.pt", weights_only=True))
    return model.eval(), S3DWords(config["words"]), config["size"]
