"""What ALPRO's prompter says of random boxes of narrated videos: the targets of its entity loss, for a closer look."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from thesis_lib.data.text import Vocabulary
from thesis_lib.losses import entity_labels_kept
from thesis_lib.models.alpro import Prompter
from thesis_lib.training.alpro import MAX_TOKENS, cut_out, load_model, normalise
from thesis_lib.training.entities import prompt_texts, random_region
from thesis_lib.training.loop import choose_device
from thesis_lib.training.narrated_clips import NarratedClips


@dataclass(frozen=True)
class PseudoLabels:
    """N clips, a box in each, and how likely the prompter finds each of M entities there."""

    frames: np.ndarray  # [N, H, W, 3] uint8, the middle one of each clip
    boxes: np.ndarray  # [N, 4] left, top, width, height, in pixels
    captions: list[str]  # the prompter does not see them
    entities: list[str]
    probabilities: np.ndarray  # [N, M]
    vectors: np.ndarray  # [N, E] of the boxes, by which the prompter compares them with texts

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """The `count` likeliest entities of each box, likeliest first."""
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        rows = zip(order, self.probabilities, strict=True)
        return [[(self.entities[k], float(row[k])) for k in best] for best, row in rows]

    def kept(self, rule: str = "paper", threshold: float = 0.2) -> np.ndarray:
        """[N] bool: whether the entity loss takes them; rules as in `losses.entity_loss`."""
        return entity_labels_kept(torch.from_numpy(self.probabilities), threshold, rule).numpy()

    def discarded(self, threshold: float = 0.2) -> dict[str, float]:
        """Share 0..1 of the boxes that each of the two rules discards, and of those that they treat differently."""
        paper, released = self.kept("paper", threshold), self.kept("released", threshold)
        shares = {"paper": ~paper, "released": ~released, "different": paper != released}
        return {name: float(share.mean()) for name, share in shares.items()}


@torch.inference_mode()
def pseudo_labels(
    folder: Path,
    *,
    howto: Path,
    count: int,
    seed: int = 0,
    num_videos: int = 0,
    on_demand: bool = False,
    films: Path | str = "",
    device: str = "auto",
) -> PseudoLabels:
    """`count` boxes of clips of howto/, as training draws them, and what the prompter in `folder` says of them.

    folder: of `training.alpro.train`. Raises ValueError where there is no prompter.
    """
    prompter, about = _prompter(folder)
    place = choose_device(device)
    prompter.to(place)
    source = {name: about[name] for name in ("frames", "seconds", "size")}
    clips = NarratedClips(howto, **source, num_videos=num_videos, on_demand=on_demand, films=films)
    side = about["model"]["patch_size"]
    frames, boxes, captions, vectors = [], [], [], []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        clip, said = clips.draw(rng, 1)
        region = random_region(rng, clip.shape[-2] // side, clip.shape[-1] // side)
        shown = cut_out(clip.transpose(1, 2).float() / 255, torch.from_numpy(region)[None])
        vectors.append(prompter.embed_video(normalise(shown.to(place))))
        rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        boxes.append(side * np.array([columns[0], rows[0], len(columns), len(rows)]))
        frames.append(clip[0, clip.shape[1] // 2].permute(1, 2, 0).numpy())
        captions += said
    found = torch.cat(vectors)
    labels = (about["entities"], prompter.probabilities(found).cpu().numpy(), found.cpu().numpy())
    return PseudoLabels(np.stack(frames), np.stack(boxes), captions, *labels)


@torch.inference_mode()
def ask_again(found: PseudoLabels, folder: Path, entities: Sequence[str], prompts: str, vocab: Path) -> PseudoLabels:
    """The same boxes, and what the prompter in `folder` says of them if it is asked about other entities.

    prompts: as of `prompt_texts`; vocab: that of training.
    """
    prompter, _ = _prompter(folder)
    prompter.video_prompt_feat = torch.zeros(len(entities), found.vectors.shape[1])
    texts = Vocabulary(vocab).encode(prompt_texts(entities, prompts), MAX_TOKENS)
    prompter.set_entities(*map(torch.from_numpy, texts))
    probabilities = prompter.probabilities(torch.from_numpy(found.vectors)).numpy()
    return replace(found, entities=list(entities), probabilities=probabilities)


def _prompter(folder: Path) -> tuple[Prompter, dict]:
    model, about = load_model(folder)
    if not about["entities"]:
        raise ValueError(f'{folder}: trained without "pem", there is no prompter')
    return model.prompter, about
