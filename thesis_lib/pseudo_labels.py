"""What ALPRO's prompter says of random boxes of narrated videos: the targets of its entity loss, for a closer look."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from thesis_lib.data.text import Vocabulary
from thesis_lib.losses import entity_labels_kept
from thesis_lib.models.alpro import Prompter
from thesis_lib.training.alpro import MAX_TOKENS, cut_out, load_model, normalise
from thesis_lib.training.entities import prompt_texts, random_region
from thesis_lib.training.narrated_clips import NarratedClips


@dataclass(frozen=True)
class PseudoLabels:
    """N clips, a box in each, and how likely the prompter finds each of M entities there."""

    frames: np.ndarray  # [N, H, W, 3] uint8, the middle one of each clip
    boxes: np.ndarray  # [N, 4] left, top, width, height, in pixels
    captions: list[str]  # the prompter does not see them
    entities: list[str]
    probabilities: np.ndarray  # [N, M]

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
    asked: Sequence[str] = (),
    prompts: str = "averaged",
    vocab: Path | None = None,
) -> PseudoLabels:
    """`count` boxes of clips of howto/, as training draws them, and what the prompter in `folder` says of them.

    folder: of `training.alpro.train` · asked: entities to ask about instead of those of training, in `prompts` of
    `prompt_texts`, with the vocabulary of training. Raises ValueError where there is no prompter.
    """
    model, about = load_model(folder)
    if not about["entities"]:
        raise ValueError(f'{folder}: trained without "pem", there is no prompter')
    entities = list(asked) or about["entities"]
    if asked:
        model.prompter = _with_entities(model.prompter, entities, prompts, Vocabulary(vocab))
    source = {name: about[name] for name in ("frames", "seconds", "size")}
    clips = NarratedClips(howto, **source, num_videos=num_videos, on_demand=on_demand)
    side = model.config.patch_size
    frames, boxes, captions, probabilities = [], [], [], []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        clip, said = clips.draw(rng, 1)
        region = random_region(rng, clip.shape[-2] // side, clip.shape[-1] // side)
        shown = cut_out(clip.transpose(1, 2).float() / 255, torch.from_numpy(region)[None])
        probabilities.append(model.prompter.soft_labels(normalise(shown))[0])
        rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
        boxes.append(side * np.array([columns[0], rows[0], len(columns), len(rows)]))
        frames.append(clip[0, clip.shape[1] // 2].permute(1, 2, 0).numpy())
        captions += said
    return PseudoLabels(np.stack(frames), np.stack(boxes), captions, entities, torch.stack(probabilities).numpy())


def _with_entities(prompter: Prompter, entities: Sequence[str], prompts: str, vocabulary: Vocabulary) -> Prompter:
    prompter.video_prompt_feat = torch.zeros(len(entities), prompter.video_prompt_feat.shape[1])
    prompter.set_entities(*map(torch.from_numpy, vocabulary.encode(prompt_texts(entities, prompts), MAX_TOKENS)))
    return prompter
