"""Close-ups of features and predictions: what the notebooks on both measure and draw beside their results.

Nothing here is trained and nothing is scored for the summary. Videos, feature folders and runs come in; frames and
arrays go out.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from thesis_lib import metrics
from thesis_lib.data import salads
from thesis_lib.data.howto100m import Captions, nearest_captions, object_name
from thesis_lib.data.text import S3DWords
from thesis_lib.data.video import read_frames
from thesis_lib.extraction import prepare
from thesis_lib.training import i3d
from thesis_lib.training.finetune import read_videos
from thesis_lib.training.predictions import load_predictions

GREY = round(255 * i3d.MEAN)  # a pixel that is zero after normalisation

# -- features --------------------------------------------------------------------------------------------------------


def health(folder: Path, axis: int) -> pd.DataFrame:
    """One row a video of a feature folder: video, vectors, values, norm (mean), least, largest, non_finite.

    axis: where vectors are counted, 1 for I3D's [D, T], 0 for S3D's [seconds, D].
    """
    rows = []
    for file in sorted(Path(folder).glob("*.npy")):
        vectors = np.moveaxis(salads.read_features(file), axis, 0)
        bad = int(vectors.size - np.isfinite(vectors).sum())
        norm = np.linalg.norm(vectors, axis=1).mean()
        rows.append((file.stem, *vectors.shape, norm, vectors.min(), vectors.max(), bad))
    return pd.DataFrame(rows, columns=["video", "vectors", "values", "norm", "least", "largest", "non_finite"])


def health_table(folders: Mapping[str, tuple[Path, int]]) -> pd.DataFrame:
    """`health` in one row a folder. folders: {title: (folder, axis)}."""
    rows = {}
    for title, (folder, axis) in folders.items():
        one = health(folder, axis)
        rows[title] = {
            "videos": len(one),
            "vectors": one["vectors"].sum(),
            "values": ", ".join(map(str, sorted(one["values"].unique()))),
            "length, least": one["norm"].min(),
            "length, mean": one["norm"].mean(),
            "length, most": one["norm"].max(),
            "smallest value": one["least"].min(),
            "not finite": one["non_finite"].sum(),
        }
    return pd.DataFrame(rows.values(), index=pd.Index(rows, name="features"))


def surplus(features: Path, root: Path) -> pd.DataFrame:
    """One row a labelled video: video, vectors, labels, surplus (vectors that no label belongs to)."""
    rows = []
    for file in sorted((Path(root) / "groundTruth").glob("*.txt")):
        vectors = salads.read_features(Path(features) / f"{file.stem}.npy").shape[1]
        rows.append((file.stem, vectors, len(salads.read_labels(file))))
    frame = pd.DataFrame(rows, columns=["video", "vectors", "labels"])
    return frame.assign(surplus=frame["vectors"] - frame["labels"])


def parameters(model: nn.Module) -> int:
    """How many numbers training sets."""
    return sum(parameter.numel() for parameter in model.parameters())


def window(path: Path, frame: int, size: int, pixels: int, padding: str = "grey") -> tuple[list[np.ndarray], list[str]]:
    """The pictures and names of the `size` frames that the vector of `frame` sees, as extraction prepares them.

    Decoded frames only; what lies outside the video is called "padding" and looks as `extraction.i3d_features` says.
    """
    after = size - 1 - size // 2
    frames, centre = [], 0
    for index, image in read_frames(path):
        centre = centre if index > frame else len(frames)
        frames.append((index, image))
        if len(frames) > centre + after:
            break
    places = range(centre - size // 2, centre + after + 1)
    held = [frames[place] if 0 <= place < len(frames) else ("padding", None) for place in places]
    edges = (frames[0][1], frames[-1][1])
    around = edges if padding == "edge" else [np.full_like(edges[0], GREY if padding == "grey" else 0)] * 2
    raw = np.stack(
        [around[place > 0] if image is None else image for place, (_, image) in zip(places, held, strict=True)]
    )
    shown = (prepare(torch.from_numpy(raw), pixels) * 255).round().byte().permute(0, 2, 3, 1)
    return list(shown.numpy()), [str(index) for index, _ in held]


@torch.inference_mode()
def swapped_colors(
    model: nn.Module,
    path: Path,
    size: int,
    pixels: int,
    step: int,
    device: str = "cpu",
    mean: float = i3d.MEAN,
    std: float = i3d.STD,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(places [N], rgb [N, D], bgr [N, D]) of every `step`-th window, red and blue as they are and swapped.

    Vectors of whole windows; a place is the frame number of the centre. Windows hold decoded frames, as in extraction.
    """
    model.to(device).eval()
    held, places, pairs = [], [], []
    for index, image in read_frames(path):
        held = [*held[-(size - 1) :], (index, image)]
        if len(held) == size and held[0][0] % step == 0:
            clip = torch.from_numpy(np.stack([one for _, one in held])).to(device)
            clip = ((prepare(clip, pixels) - mean) / std).transpose(0, 1)[None]
            pairs.append(torch.cat([model(clip), model(clip.flip(1))]).float().cpu().numpy())
            places.append(held[size // 2][0])
    rgb, bgr = np.stack(pairs, axis=1)
    return np.array(places), rgb, bgr


def cosines_of_swap(rgb: np.ndarray, bgr: np.ndarray, labels: Sequence) -> dict[str, np.ndarray]:
    """Cosines of vectors [N, D]: the same frame with colours swapped, pairs of frames of one class, of two classes."""
    rgb, bgr = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (rgb, bgr))
    products, same = rgb @ rgb.T, np.equal.outer(np.asarray(labels), np.asarray(labels))
    upper = np.triu(np.ones_like(same), 1)
    return {
        "the same frame, red and blue swapped": (rgb * bgr).sum(1),
        "another frame of the same class": products[same & upper],
        "a frame of another class": products[~same & upper],
    }


def sample(videos: Sequence, axis: int, every: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """(vectors [N, D], labels [N]): every so many vectors of videos with .features and .labels."""
    vectors = [np.moveaxis(np.asarray(v.features), axis, 0)[: len(v.labels) : every] for v in videos]
    return np.concatenate(vectors), np.concatenate([np.asarray(v.labels)[::every] for v in videos])


def between_classes(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Share 0..1 of the variance of vectors [N, D] that lies between the means of the classes."""
    centred = vectors - vectors.mean(0, dtype=np.float64)
    between = sum((labels == c).sum() * np.square(centred[labels == c].mean(0)).sum() for c in np.unique(labels))
    return float(between / np.square(centred).sum())


def nearest_mean_accuracy(train: tuple, test: tuple) -> float:
    """Accuracy of giving each test vector the class whose mean training vector is nearest: what one vector tells.

    train, test: (vectors [N, D], labels [N]); every value is scaled by its deviation over the training vectors.
    """
    (x, y), (x_test, y_test) = train, test
    scale = x.std(0) + 1e-6
    classes = np.unique(y)
    means = np.stack([x[y == c].mean(0) for c in classes])
    distances = torch.cdist(torch.from_numpy(x_test / scale).float(), torch.from_numpy(means / scale).float())
    return float((classes[distances.argmin(1).numpy()] == y_test).mean())


# -- narrated videos -------------------------------------------------------------------------------------------------


def clip_and_captions(
    path: Path, said: Captions, second: float, frames: int, candidates: int, pixels: int, fps: float
) -> tuple[list[np.ndarray], pd.DataFrame]:
    """The pictures of the clip of `frames` frames around `second`, and the captions of its video as MIL-NCE sees them.

    Captions: said_at (middle, s), distance (s from the middle of the clip), text, in_the_bag.
    """
    start = max(int(second * fps - frames / 2), 0)
    raw = np.stack([image for _, image in islice(read_frames(path, damaged="repeat"), start, start + frames)])
    images = (prepare(torch.from_numpy(raw), pixels) * 255).round().byte().permute(0, 2, 3, 1)
    at, middles = (start + frames / 2) / fps, (said.starts + said.ends) / 2
    bag = nearest_captions(said.starts, said.ends, at, candidates)
    table = pd.DataFrame({"said_at": middles, "distance": middles - at, "text": said.texts})
    return list(images.numpy()), table.assign(in_the_bag=np.isin(np.arange(len(said)), bag))


def bags_that_name(
    said: Mapping[str, Captions],
    actions: Mapping[str, Sequence[tuple[float, float, str]]],
    candidates: Sequence[int],
    clips: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """For each K the share of random clips with a caption in their bag that names the object shown, and of captions.

    actions: video -> [(start s, end s, "verb object")]. Columns: candidates, bags, captions; actions without an object
    are left out.
    """
    shown = [(v, a, b, object_name(what)) for v, rows in actions.items() for a, b, what in rows if object_name(what)]
    shown = [row for row in shown if len(said.get(row[0], ()))]
    rng, hits = np.random.default_rng(seed), {k: [] for k in candidates}
    for number in rng.integers(len(shown), size=clips):
        video, start, end, thing = shown[number]
        texts, time = said[video], rng.uniform(start, end)
        for k in candidates:
            bag = nearest_captions(texts.starts, texts.ends, time, k)
            hits[k].append([thing in texts.texts[index].lower() for index in bag])
    rows = [(k, np.any(hit, axis=1).mean(), np.mean(hit)) for k, hit in hits.items()]
    return pd.DataFrame(rows, columns=["candidates", "bags", "captions"])


def shown_at(actions: Mapping[str, Sequence[tuple[float, float, str]]], video: str, second: float) -> str:
    """What an action list says of a moment of a video; "unknown" where it says nothing."""
    return next((what for start, end, what in actions.get(video, ()) if start <= second < end), "unknown")


def load_s3d(weights: Path) -> tuple[nn.Module, S3DWords]:
    """S3D and its words: of a folder of `training.s3d`, or of a released file with s3d_dict.npy beside it."""
    from thesis_lib.models.official import load_official
    from thesis_lib.training import s3d

    weights = Path(weights)
    if weights.is_dir():
        return s3d.load(weights)[:2]
    return load_official("s3d_howto100m", weights)[0], S3DWords.read(weights.parent / "s3d_dict.npy")


@torch.inference_mode()
def text_vectors(model: nn.Module, words: S3DWords, texts: Sequence[str]) -> np.ndarray:
    """[C, D]: the vector of each text in S3D's space."""
    return model.encode_text(torch.from_numpy(words.encode(texts))).numpy()


@torch.inference_mode()
def beside_texts(model: nn.Module, vectors: np.ndarray) -> np.ndarray:
    """Vectors [N, D] of S3D in the space of its texts: mixed_5c goes through the last layer, others are there already.

    Of mixed_5c of unit length the directions are only nearly right: the layer has a bias.
    """
    if vectors.shape[1] == model.fc.out_features:
        return vectors
    return model.project(torch.from_numpy(np.ascontiguousarray(vectors))).numpy()


def agreement(vectors: np.ndarray, labels: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """[classes present] cosine between each class's mean vector and its text, both less the mean over these classes."""
    present = np.unique(labels)
    pairs = np.stack([vectors[labels == c].mean(0) for c in present]), texts[present]
    video, text = (side - side.mean(0) for side in pairs)
    norms = np.linalg.norm(video, axis=1) * np.linalg.norm(text, axis=1)
    return (video * text).sum(1) / np.maximum(norms, 1e-12)


def single_seconds(
    features: Path, root: Path, split: int, fps: float, classes: np.ndarray, model: nn.Module
) -> tuple[list, list, list]:
    """(names, predictions [S], targets [S]) of the test videos: each second gets the class of the largest product.

    model: S3D, see `beside_texts`.
    """
    videos = read_videos(features, root, split, "test", fps)
    predictions = [(beside_texts(model, video.features.numpy()) @ classes.T).argmax(1) for video in videos]
    return [video.name for video in videos], predictions, [video.labels.numpy() for video in videos]


def majority(root: Path, split: int) -> int:
    """The class with the most frames in the training videos of a split: what a constant prediction says."""
    root = Path(root)
    mapping = salads.read_mapping(root / "mapping.txt")
    names = salads.read_bundle(root / f"splits/train.split{split}.bundle")
    labels = (salads.read_labels(root / f"groundTruth/{name}.txt") for name in names)
    return metrics.majority_class([salads.encode(one, mapping) for one in labels])


# -- runs ------------------------------------------------------------------------------------------------------------


def histories(runs: Mapping[int, Path]) -> pd.DataFrame:
    """history.csv of every run under each other, with the column split. runs: {split: folder}."""
    frames = [pd.read_csv(Path(run) / "history.csv").assign(split=split) for split, run in runs.items()]
    return pd.concat(frames, ignore_index=True)


def stage_names(count: int) -> list[str]:
    """Names of the successive predictions of ASFormer."""
    return ["encoder", *(f"decoder {number}" for number in range(1, count))]


def stages_of(run: Path, video: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """({stage: labels [T]}, targets [T]) of one test video of a run of ASFormer."""
    names, stages, targets = load_predictions(run, slice(None))
    place = names.index(video)
    return dict(zip(stage_names(len(stages[place])), stages[place], strict=True)), targets[place]


def by_stage(runs: Mapping[int, Path]) -> pd.DataFrame:
    """One row a split and stage: split, stage, the metrics of the field, segments and true_segments a video."""
    rows = []
    for split, run in runs.items():
        _, videos, targets = load_predictions(run, slice(None))
        true = np.mean([len(metrics.segments(y)[0]) for y in targets])
        predictions = list(zip(*videos, strict=True))
        for stage, predicted in zip(stage_names(len(predictions)), predictions, strict=True):
            count = np.mean([len(metrics.segments(p)[0]) for p in predicted])
            scores = metrics.evaluate(predicted, targets)
            rows.append({"split": split, "stage": stage} | scores | {"segments": count, "true_segments": true})
    return pd.DataFrame(rows)


def pooled(runs: Mapping[int, Path]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(predictions, targets) of the last stage over the test videos of all splits."""
    parts = [load_predictions(run)[1:] for run in runs.values()]
    return [p for part in parts for p in part[0]], [y for part in parts for y in part[1]]


def ranked(runs: Mapping[int, Path]) -> pd.DataFrame:
    """Test videos by accuracy of the last stage, best first: split, video, accuracy."""
    rows = [
        (split, name, float((p == y).mean()))
        for split, run in runs.items()
        for name, p, y in zip(*load_predictions(run), strict=True)
    ]
    frame = pd.DataFrame(rows, columns=["split", "video", "accuracy"])
    return frame.sort_values("accuracy", ascending=False, ignore_index=True)


def class_scores(matrix: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
    """From a confusion matrix [C, C]: class, frames, F1, recall, what it is most often taken for, and that share."""
    matrix = np.asarray(matrix, dtype=float)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    wrong = shares - np.diag(shares.diagonal())
    return pd.DataFrame({
        "class": list(names),
        "frames": matrix.sum(1).astype(int),
        "F1": np.where(matrix.sum(1) > 0, metrics.class_f1(matrix), np.nan),
        "recall": np.where(matrix.sum(1) > 0, shares.diagonal(), np.nan),
        "taken_for": [names[row.argmax()] if row.any() else "" for row in wrong],
        "share": wrong.max(1),
    })  # fmt: skip


def segment_seconds(sequences: Sequence, fps: float) -> np.ndarray:
    """Lengths [N] in seconds of all segments of some label sequences."""
    found = [metrics.segments(labels)[1:] for labels in sequences]
    return np.concatenate([ends - starts for starts, ends in found]) / fps
