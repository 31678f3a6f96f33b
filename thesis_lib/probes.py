"""Probes of VideoCLIP: what its clusters, vectors and predictions have in common, as plain arrays and frames."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from thesis_lib import metrics, segmentation
from thesis_lib.data import salads
from thesis_lib.data.howto100m import read_metadata
from thesis_lib.data.text import Vocabulary
from thesis_lib.losses import contrastive_loss
from thesis_lib.models.videoclip import VideoCLIP
from thesis_lib.retrieval import build_clusters
from thesis_lib.training import finetune, loop, tracks, videoclip
from thesis_lib.training.pairs import Pair, SpanLimits, aligned_pair, overlapped_pair

SMALL_WORDS = {"a", "into", "onto", "the", "to"}  # shared by class names without meaning anything


# -- pretraining -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Narrated:
    """Narrated videos as pretraining reads them, and how pairs are drawn from them and made into batches."""

    tracks: list[tracks.Track]
    limits: SpanLimits
    collate: tracks.Collate

    @classmethod
    def read(cls, features: Path, howto: Path, vocab: Path, limits: SpanLimits, most: int = 2000) -> "Narrated":
        """The usable videos; where there are more than `most`, as many drawn at random."""
        vocabulary = Vocabulary(vocab)
        read = tracks.read_tracks(features, howto, vocabulary)
        if len(read) > most:
            read = read.only(read.videos.names[np.random.default_rng(0).permutation(len(read))[:most]])
        return cls(list(read), limits, tracks.Collate(vocabulary, limits.max_seconds))

    def clusters(self, model: VideoCLIP | None, size: int, clips: int, seed: int) -> list[list[int]]:
        """Clusters of `size` videos: retrieved with the vectors of a model, or random ones (None)."""
        count = len(self.tracks) // size
        if model is None:
            order = np.random.default_rng(seed).permutation(len(self.tracks))
            return order[: count * size].reshape(count, size).tolist()
        vectors = tracks.encode_videos(model, self.tracks, clips, self.collate, self.limits, [seed])
        return build_clusters(vectors, count, size, 2 * size, seed)

    def names(self, cluster: Iterable[int]) -> list[str]:
        """Names of the videos of a cluster."""
        return [self.tracks[i].name for i in cluster]

    def example_pairs(self, track: tracks.Track, count: int, seed: int) -> list[tuple[Pair, Pair]]:
        """(aligned, overlapped) pairs of one video; the two of a tuple share their text span."""
        video = track.captions, track.lengths, len(track.features)
        streams = [[seed, k] for k in range(count)]
        return [
            tuple(make(*video, np.random.default_rng(stream), self.limits) for make in (aligned_pair, overlapped_pair))
            for stream in streams
        ]


def untrained(model: VideoCLIP, seed: int) -> VideoCLIP:
    """A model of the same size with random weights, in eval mode: what the first retrieval of a training uses."""
    loop.seed_everything(seed)
    return VideoCLIP(model.config).eval()


def gradients(
    model: VideoCLIP, corpus: Narrated, clusters: Sequence[Sequence[int]], clips: int, seed: int
) -> dict[str, tuple[float, torch.Tensor]]:
    """Loss and gradient of one step in three ways, in double precision and without dropout.

    "devices": a cluster on each device, gradients averaged as distributed data parallel does. "accumulated": the
    clusters one after the other on one device. "merged": all pairs in one batch, a different objective.
    """
    model, rng = model.double().eval(), np.random.default_rng(seed)
    picks = [tracks.draw([corpus.tracks[i] for i in c], clips, rng, corpus.limits) for c in clusters]

    def loss(picked) -> torch.Tensor:
        features, *rest = corpus.collate(picked)
        return contrastive_loss(*model(features.double(), *rest))

    def gradient(losses: Iterable[torch.Tensor]) -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        for value in losses:
            value.backward()
        return torch.cat([w.grad.flatten().clone() for w in model.parameters() if w.grad is not None])

    alone = [(loss(one).item(), gradient([loss(one)])) for one in picks]
    mean, merged = float(np.mean([value for value, _ in alone])), sum(picks, [])
    found = {
        "devices": (mean, sum(g for _, g in alone) / len(alone)),
        "accumulated": (mean, gradient(loss(one) / len(picks) for one in picks)),
        "merged": (loss(merged).item(), gradient([loss(merged)])),
    }
    model.float()
    return found


def contents(howto: Path) -> dict[str, set[str]]:
    """What each narrated video shows: its actions where actions.json tells them, else its category and its task."""
    if (howto / "actions.json").exists():
        shown = json.loads((howto / "actions.json").read_text())
        return {video: {what for *_, what in actions if " " in what} for video, actions in shown.items()}
    table = read_metadata(howto / "HowTo100M_v1.csv")
    rows = zip(table["video_id"], table["category_2"], table["task_id"], strict=True)
    return {video: {str(category), f"task {task}"} for video, category, task in rows}


def common_share(names: Sequence[str], shown: Mapping[str, set[str]]) -> float:
    """What two videos of a cluster have in common: shared over all contents of both, mean over its pairs of videos."""
    pairs = [(shown[a], shown[b]) for a, b in combinations(names, 2)]
    return float(np.mean([len(a & b) / max(1, len(a | b)) for a, b in pairs]))


def histories(folders: Mapping[str, Path], column: str = "weights") -> pd.DataFrame:
    """history.csv of each folder with its name in a column; weights that came as a file have none."""
    read = {name: Path(folder) / "history.csv" for name, folder in folders.items()}
    frames = [pd.read_csv(file).assign(**{column: name}) for name, file in read.items() if file.is_file()]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["val_loss_clusters", column])


def compared(runs: Mapping[tuple[str, int], Path], score: Callable[[Path], float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trainings by (name, seed) -> (history, a row an epoch; their last rows with the score as zero_shot, seconds)."""
    frames, ends = [], []
    for (name, seed), folder in runs.items():
        frames.append(pd.read_csv(Path(folder) / "history.csv").assign(training=name, seed=seed))
        ends.append(frames[-1].iloc[-1].to_dict() | {"zero_shot": score(folder), "seconds": seconds_taken(folder)})
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(), pd.DataFrame(ends)


def seconds_taken(folder: Path) -> float:
    """How long a stage took, in seconds; NaN for weights that came as a file."""
    file = Path(folder) / "inputs.json"
    return json.loads(file.read_text())["seconds"] if file.is_file() else float("nan")


# -- vectors and classes ---------------------------------------------------------------------------------------------


def second_tokens(
    weights: Path, features: Path, root: Path, split: int, fps: float, window: int, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [S, H], labels [S]) of all seconds of the test videos of a split, averaged over windows."""
    model = videoclip.load(weights)
    videos = finetune.read_videos(features, root, split, "test", fps)

    def encode(clips, mask):
        return model.encode_video_tokens(clips, mask, attend_cls=False)

    tokens = [segmentation.segment(encode, v.features, lambda t: t, window, stride).numpy() for v in videos]
    return np.concatenate(tokens), np.concatenate([v.labels.numpy() for v in videos])


def class_means(features: Path, root: Path, splits: Iterable[int], fps: float) -> np.ndarray:
    """[C, D]: the mean feature of each class over the test videos of splits; NaN for a class that does not occur."""
    videos = [v for split in splits for v in finetune.read_videos(features, root, split, "test", fps)]
    vectors = np.concatenate([v.features.numpy() for v in videos])
    labels = np.concatenate([v.labels.numpy() for v in videos])
    rows = [vectors[labels == c] for c in range(len(salads.class_names(root)))]
    return np.stack([row.mean(0) if len(row) else np.full(vectors.shape[1], np.nan) for row in rows])


def correlations(vectors: np.ndarray) -> np.ndarray:
    """[C, C]: cosine of vectors [C, D] around their common mean; NaN rows stay NaN."""
    centred = vectors - np.nanmean(vectors, axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit @ unit.T


def shared(first: str, second: str, actions: Mapping[str, Sequence] | None = None) -> str:
    """What two classes share: motion and object where `actions` tells them ({class: (motion, object, ...)}), else the
    words of their names."""
    if actions:
        kinds = zip(("motion", "object"), actions[first], actions[second], strict=False)
        return ", ".join(f"{kind} ({a})" for kind, a, b in kinds if a and a == b) or "nothing"
    words = (set(first.split("_")) & set(second.split("_"))) - SMALL_WORDS
    return ", ".join(sorted(words)) or "nothing"


def confused_pairs(
    counts: np.ndarray, names: Sequence[str], measures: Mapping[str, np.ndarray], actions: Mapping | None = None
) -> pd.DataFrame:
    """Pairs of classes by how many of their seconds go to the other one, most confused first.

    counts [C, C]: truth in rows. measures: {column: [C, C]}, added for each pair. Columns: classes, "% confused",
    shared (see `shared`), and the measures. A pair of which a class never occurs is left out.
    """
    rows = []
    for i, j in combinations(range(len(names)), 2):
        if counts[i].sum() and counts[j].sum():
            share = (counts[i, j] + counts[j, i]) / (counts[i].sum() + counts[j].sum())
            row = {"classes": f"{names[i]} / {names[j]}".replace("_", " "), "% confused": 100 * share}
            row["shared"] = shared(names[i], names[j], actions)
            rows.append(row | {column: matrix[i, j] for column, matrix in measures.items()})
    return pd.DataFrame(rows).sort_values("% confused", ascending=False, kind="stable", ignore_index=True)


# -- predictions -----------------------------------------------------------------------------------------------------


def constant_class(root: Path, split: int) -> int:
    """The class with most frames in the training videos of a split: what to say without looking."""
    mapping = salads.read_mapping(Path(root) / "mapping.txt")
    bundle = salads.read_bundle(Path(root) / f"splits/train.split{split}.bundle")
    labels = (salads.read_labels(Path(root) / f"groundTruth/{name}.txt") for name in bundle)
    return metrics.majority_class([salads.encode(row, mapping) for row in labels])


def tidy(predictions, targets, **row) -> list[dict]:
    """`metrics.evaluate` of sequences of seconds as tidy rows: columns metric, value, unit and those given."""
    scores = metrics.evaluate(predictions, targets)
    units = {"frame_levenshtein": "seconds"}
    return [row | {"metric": name, "value": value, "unit": units.get(name, "")} for name, value in scores.items()]


def on_same_seconds(first: tuple, second: tuple) -> tuple[list, list, list]:
    """(first's labels, second's labels, targets) of two results (names, predictions, targets) over the seconds of both.

    Videos in the order of the first. Raises ValueError where videos or targets differ.
    """
    names, predictions, targets = first
    others = {name: (labels, truth) for name, labels, truth in zip(*second, strict=True)}
    if set(names) != set(others):
        raise ValueError(f"two results of different videos: {', '.join(sorted(set(names) ^ set(others))[:3])}")
    rows = []
    for name, labels, truth in zip(names, predictions, targets, strict=True):
        other, again = others[name]
        length = min(len(truth), len(again))
        if not np.array_equal(truth[:length], again[:length]):
            raise ValueError(f"{name}: the two results have different targets")
        rows.append((labels[:length], other[:length], truth[:length]))
    return tuple(map(list, zip(*rows, strict=True)))


def segment_lengths(sequences: Iterable[np.ndarray]) -> np.ndarray:
    """Lengths of all segments of some label sequences, in labels."""
    runs = [metrics.segments(labels) for labels in sequences]
    return np.concatenate([ends - starts for _, starts, ends in runs])


def beyond(values: Sequence[float], others: Sequence[float], alpha: float = 0.05) -> bool:
    """Whether the mean of one list is above that of another by more than chance gives (Welch's t-test, two-sided)."""
    from scipy.stats import ttest_ind

    return bool(np.mean(values) > np.mean(others) and ttest_ind(values, others, equal_var=False).pvalue < alpha)


def verdict(first: Sequence[float], second: Sequence[float], unit: str = "splits", alpha: float = 0.05) -> str:
    """Two lists of numbers of the same splits (or seeds) in words: means, difference, paired test, what it allows."""
    test = metrics.paired_test(first, second)
    means = f"{np.nanmean(first):.3f} against {np.nanmean(second):.3f}"
    if not np.isfinite(test["p"]):
        return f"{means} ({test['n']} {unit}: too few, or differences too alike, for a test)"
    p = f"p = {test['p']:.3f}" if test["p"] >= 0.001 else "p < 0.001"
    gap = f"{abs(test['mean_difference']):.3f} {'higher' if test['mean_difference'] > 0 else 'lower'}"
    told = "a difference beyond chance" if test["p"] < alpha else "not beyond what chance gives"
    return f"{means}, {gap}, {told} (paired test over {test['n']} {unit}, {p})"
