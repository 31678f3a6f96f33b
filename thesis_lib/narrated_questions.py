"""Questions in the manner of EgoMCQ over any narrated videos, and who is a positive of whom in a batch of EgoNCE."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from thesis_lib import metrics, seconds
from thesis_lib.data.egoclip import KITCHEN, Question, Taxonomy, draw_questions, plain, read_egomcq
from thesis_lib.training.films import Film, around, read_films
from thesis_lib.training.loop import choose_device
from thesis_lib.training.narrated_clips import NarratedClips

AT_ONCE = 256  # clips in memory, as bytes, or texts


def draw(corpus: NarratedClips, count: int, rng: np.random.Generator) -> list[Question]:
    """`count` questions of each type over the captions of a corpus, see `data.egoclip.draw_questions`."""
    said = [(name, corpus.said[name]) for name in corpus.names]
    clips = [(name, *row) for name, own in said for row in zip(own.starts, own.ends, own.texts, strict=True)]
    return draw_questions(clips, count, rng)


def of_file(
    root: str | Path, *, frames: int, seconds: float, size: int, on_demand: bool = False
) -> tuple[list[Question], dict[str, Film]]:
    """The questions of root/egomcq.json all of whose clips are of videos that root/videos holds, and these films.

    Their sentences are `plain`, as captions are. frames, seconds, size, on_demand: of a clip, see NarratedClips. Raises
    ValueError where not one film is there.
    """
    questions, ends = read_egomcq(Path(root) / "egomcq.json"), {}
    for video, start, end, _ in (clip for question in questions for clip in question.choices):
        ends[video] = max((start + end) / 2 + seconds, ends.get(video, 0.0))  # so that no clip is moved to fit
    films = read_films(root, sorted(ends), size, frames / seconds if on_demand else 0.0, ends, frames)
    whole = [question for question in questions if all(clip[0] in films for clip in question.choices)]
    return [replace(question, query=plain(question.query)) for question in whole], films


@torch.inference_mode()
def similarities(
    encoder: nn.Module, films: Mapping[str, Film], questions: Sequence[Question], device: str = "auto"
) -> np.ndarray:
    """[Q, 5] cosines of each question's text and clips, a clip of the encoder's length around the middle of each.

    A clip that cannot be read is like nothing: -1. The encoder is moved to the device.
    """
    place, length = choose_device(device), (encoder.frames, encoder.seconds)
    encoder.to(place)
    queries = [question.query for question in questions]
    texts = torch.cat([encoder.embed_texts(some).cpu() for some in _parts(queries)]).numpy()
    vectors = {}
    for some in _parts(list(dict.fromkeys(clip for question in questions for clip in question.choices))):
        clips = {clip: around(films[clip[0]], (clip[1] + clip[2]) / 2, *length) for clip in some}
        readable = {clip: frames.numpy() for clip, frames in clips.items() if frames is not None}
        if readable:
            found = seconds.encode(encoder.embed, np.stack([*readable.values()]), device=place)
            vectors |= zip(readable, found, strict=True)
    return np.array(
        [[text @ vectors[clip] if clip in vectors else -1.0 for clip in question.choices]
         for text, question in zip(texts, questions, strict=True)]
    )  # fmt: skip


def _parts(items: list) -> Iterator[list]:
    """AT_ONCE of them at a time."""
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]


def accuracy(scores: np.ndarray, questions: Sequence[Question]) -> dict[str, float]:
    """`metrics.egomcq_accuracy` of `similarities`: {"inter", "intra"}; without a readable clip no answer is right."""
    answers, types = (np.array([getattr(question, name) for question in questions]) for name in ("answer", "type"))
    return metrics.egomcq_accuracy(scores, np.where((scores > -1).any(axis=1), answers, -1), types)


def positives(texts: Sequence[str], taxonomy: Taxonomy = KITCHEN) -> pd.DataFrame:
    """Which other rows of a batch are alike: columns alike ("verb", "noun", "verb and noun", "text"), pairs, rows.

    pairs: mean number of others to a row; rows: share of rows that have at least one.
    """
    nouns, verbs = taxonomy.tags(texts)
    same = np.array([[one == other for other in texts] for one in texts])
    noun, verb = nouns @ nouns.T > 0, verbs @ verbs.T > 0
    found = {"verb": verb, "noun": noun, "verb and noun": verb & noun, "text": same}
    others = ~np.eye(len(texts), dtype=bool)
    rows = [(name, (alike & others).sum(1).mean(), (alike & others).any(1).mean()) for name, alike in found.items()]
    return pd.DataFrame(rows, columns=["alike", "pairs", "rows"])


def scene_positives(texts: Sequence[str], taxonomy: Taxonomy = KITCHEN) -> float:
    """Share of the scene-aware negatives of a batch of `training.svitt.SceneClips` that are a positive after all.

    texts: pairs, then their negatives; one that shares a verb and a noun with its pair is told to be close to it.
    """
    half = len(texts) // 2
    nouns, verbs = ((words[:half] * words[half : 2 * half]).sum(1) > 0 for words in taxonomy.tags(texts))
    return float((nouns & verbs).mean())
