"""Metrics of temporal action segmentation, and the tests, time grids and filters that go with them.

A video is one label sequence, ints or strings, one label per frame (or per second: everything here is blind to the
frame rate). Definitions follow the evaluation code of MS-TCN (yabufarha/ms-tcn, eval.py), which the field shares:

    accuracy           equal frames / all frames, over all videos together
    edit_score         100 * (1 - Levenshtein(P, Y) / max(|P|, |Y|)) of the two lists of segments, mean over videos
    f1@k               a predicted segment is a hit when its IoU with an unused target segment of its class is >= k %;
                       hits, false alarms and misses are summed over videos before one F1 is taken
    frame_levenshtein  Levenshtein(prediction, target) of the raw sequences, in frames, mean over videos, lower is
                       better: the "edit distance" of the thesis's VideoCLIP tables (at one frame a second)

ASFormer's copy (eval.py:31) ends the last segment of a video one frame early; `segment_end="asformer"` repeats it.
"""

import math

import numpy as np

OVERLAPS = (0.10, 0.25, 0.50)
SEGMENT_ENDS = ("exclusive", "asformer")


def evaluate(predictions, targets, segment_end="exclusive", background=()):
    """All metrics of a set of videos.

    predictions, targets: lists with one label sequence (ints or strings) per video, at the same frame rate.
    segment_end: "exclusive", or "asformer" for the official off-by-one of the last segment.
    background: labels left out of edit and F1 (never of accuracy), as the official code does with "background".

    Returns accuracy 0..1, edit_score 0..100, frame_levenshtein in frames, f1@10 f1@25 f1@50 0..1.
    A prediction longer than its target is cut to it. ValueError names the position of a video whose prediction is
    shorter than its target, or where either is empty.
    """
    pairs = _pairs(predictions, targets)
    counts = sum(f1_counts(p, y, segment_end, background) for p, y in pairs)
    return {
        "accuracy": sum(int((p == y).sum()) for p, y in pairs) / sum(len(y) for _, y in pairs),
        "edit_score": float(np.mean([edit_score(p, y, background) for p, y in pairs])),
        "frame_levenshtein": float(np.mean([levenshtein(p, y) for p, y in pairs])),
    } | {f"f1@{round(100 * k)}": f1(*c) for k, c in zip(OVERLAPS, counts.T, strict=True)}


def segments(labels, segment_end="exclusive", background=()):
    """Runs of equal labels -> (labels [S], starts [S], ends [S]); ends are exclusive, background runs are left out.

    Two runs of one class with background between them stay two segments (MS-TCN eval.py:14-35).
    """
    if segment_end not in SEGMENT_ENDS:
        raise ValueError(f"segment_end is {segment_end!r}; it is one of {', '.join(SEGMENT_ENDS)}")
    labels = as_labels(labels)
    starts = np.flatnonzero(np.r_[len(labels) > 0, labels[1:] != labels[:-1]])
    ends = np.r_[starts[1:], len(labels) - (segment_end == "asformer")][: len(starts)]
    keep = ~np.isin(labels[starts], list(background)) if len(background) else slice(None)
    return labels[starts][keep], starts[keep], ends[keep]


def edit_score(prediction, target, background=()):
    """Segmental edit score of one video, 0..100, higher is better. Two videos without any segment agree: 100."""
    p, y = segments(prediction, background=background)[0], segments(target, background=background)[0]
    return 100.0 * (1.0 - levenshtein(p, y) / max(len(p), len(y), 1))


def levenshtein(a, b):
    """Least number of insertions, deletions and substitutions that turn label sequence a into b.

    The bit-parallel algorithm of Myers (1999) in the form of Hyyro (2003): a whole column of the usual table is held as
    the bits of two integers (where it rises, where it falls). 12,000 against 12,000 frames take about 0.3 s.
    """
    a, b = as_labels(a), as_labels(b)
    if len(a) == 0 or len(b) == 0:
        return max(len(a), len(b))
    full, top = (1 << len(a)) - 1, 1 << (len(a) - 1)
    where = {label: _bits(a == label) for label in np.unique(a).tolist()}
    rises, falls, distance = full, 0, len(a)
    for label in b.tolist():
        equal = where.get(label, 0)
        vertical = equal | falls
        horizontal = ((((equal & rises) + rises) ^ rises) | equal) & full
        up = falls | (full & ~(horizontal | rises))
        down = rises & horizontal
        distance += bool(up & top) - bool(down & top)
        up = (up << 1 | 1) & full
        rises = (down << 1 & full) | (full & ~(vertical | up))
        falls = up & vertical
    return distance


def f1_counts(prediction, target, segment_end="exclusive", background=(), overlaps=OVERLAPS):
    """Counts of one video -> int array [3, K]: true positives, false positives, false negatives at each overlap.

    Each predicted segment looks at the one target segment of its class that it overlaps best, no second choice; only
    the first to claim a target segment is a hit (MS-TCN eval.py:62-94).
    """
    p, p_start, p_end = segments(prediction, segment_end, background)
    y, y_start, y_end = segments(target, segment_end, background)
    hits = np.zeros(len(overlaps), dtype=int)
    if len(p) and len(y):
        intersection = np.minimum(p_end[:, None], y_end) - np.maximum(p_start[:, None], y_start)
        hull = np.maximum(p_end[:, None], y_end) - np.minimum(p_start[:, None], y_start)
        with np.errstate(invalid="ignore"):  # 0 / 0 of two empty last segments: only with segment_end="asformer"
            iou = intersection / hull * (p[:, None] == y)  # the hull is the union wherever the two meet
        best, value = iou.argmax(1), iou.max(1)  # NaN wins both, and then is no hit: so does the official code
        hits = np.array([len(np.unique(best[value >= k])) for k in overlaps])
    return np.stack([hits, len(p) - hits, len(y) - hits])


def f1(true_positives, false_positives, false_negatives):
    """F1 0..1 from counts; 0 where there is nothing to count."""
    denominator = 2 * true_positives + false_positives + false_negatives
    return float(2 * true_positives / denominator) if denominator else 0.0


def confusion(predictions, targets, num_classes):
    """Frame counts [num_classes, num_classes], row = target, column = prediction, for integer labels."""
    matrix = np.zeros((num_classes, num_classes), dtype=np.int64)
    for i, (p, y) in enumerate(_pairs(predictions, targets)):
        low, high = min(p.min(), y.min()), max(p.max(), y.max())
        if low < 0 or high >= num_classes:
            raise ValueError(f"video {i}: labels run from {low} to {high}, outside 0..{num_classes - 1}")
        np.add.at(matrix, (y, p), 1)
    return matrix


def class_f1(matrix):
    """Frame-wise F1 0..1 of each class from a confusion matrix [C, C]; NaN for a class that never occurs."""
    matrix = np.asarray(matrix)
    total = matrix.sum(0) + matrix.sum(1)
    return np.divide(2 * matrix.diagonal(), total, out=np.full(len(matrix), np.nan), where=total > 0)


def majority_class(train_targets):
    """The label with the most frames in a list of label sequences (the first in sorted order among equals)."""
    labels, counts = np.unique(_concatenate(train_targets), return_counts=True)
    return labels[counts.argmax()].item()


def constant_class_accuracy(targets, label=None):
    """Accuracy 0..1 of predicting one class everywhere: `label`, or the best one in hindsight."""
    label = majority_class(targets) if label is None else label
    return float((_concatenate(targets) == label).mean())


def reliability(confidences, correct, bins=15):
    """How sure and how right: confidences [N] 0..1, correct [N] bool -> [bins, 3] for bins of equal width over 0..1:
    frames, their summed confidence, how many are right. Such counts of several videos may be added."""
    confidences, correct = np.asarray(confidences, np.float64), np.asarray(correct, np.float64)
    place = np.minimum((confidences * bins).astype(int), bins - 1)
    columns = (None, confidences, correct)
    return np.stack([np.bincount(place, weights, bins) for weights in columns], axis=1).astype(np.float64)


def calibration_error(counts):
    """Expected calibration error 0..1 from the counts of `reliability`: the mean over frames of |accuracy - confidence|
    of their bin (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, with 15 bins)."""
    frames, confidence, correct = np.asarray(counts, np.float64).T
    return float(np.abs(correct - confidence).sum() / frames.sum())


def segment_counts(predictions, targets):
    """(predicted, true) segments a video, means: over-segmentation is the first over the second."""
    pairs = _pairs(predictions, targets)
    return tuple(float(np.mean([len(segments(pair[side])[0]) for pair in pairs])) for side in (0, 1))


def majority(labels, width):
    """A majority filter: each label becomes the most frequent one among the `width` around it (an even width reaches
    one farther back; at the ends those that are there). Among equals the label itself, else the smallest."""
    labels = as_labels(labels)
    names, codes = np.unique(labels, return_inverse=True)
    if width < 1:
        raise ValueError(f"a majority filter has a width of at least 1, not {width}")
    if width == 1 or not len(labels):
        return labels
    sums = np.zeros((len(labels) + 1, len(names)), dtype=np.int64)
    np.cumsum(codes[:, None] == np.arange(len(names)), axis=0, out=sums[1:])
    first = np.arange(len(labels)) - width // 2
    counts = 2 * (sums[np.clip(first + width, 0, len(labels))] - sums[np.clip(first, 0, None)])
    counts[np.arange(len(labels)), codes] += 1
    return names[counts.argmax(1)]


def paired_test(a, b):
    """Student's paired t-test of a - b (one number per split or seed each); pairs with a NaN are left out.

    Returns mean_difference, t, p (two-sided), n. t and p are NaN below two pairs or when all differences are equal.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"a paired test needs two lists of one length, not shapes {a.shape} and {b.shape}")
    known = ~np.isnan(a) & ~np.isnan(b)
    a, b = a[known], b[known]
    difference = a - b
    result = {"mean_difference": float(difference.mean()) if len(a) else math.nan, "t": math.nan, "p": math.nan}
    if len(a) > 1 and not np.allclose(difference, difference[0], rtol=0, atol=1e-12):
        from scipy.stats import ttest_rel

        t, p = ttest_rel(a, b)
        result |= {"t": float(t), "p": float(p)}
    return result | {"n": len(a)}


def resample(labels, fps, fps_out, length=None):
    """Labels at fps -> labels at fps_out: each output frame takes what the input shows at the middle of its time.

    length: number of output frames, by default all that the input begins. Beyond the input its last label goes on.
    """
    labels = as_labels(labels)
    length = math.ceil(len(labels) * fps_out / fps) if length is None else length
    return labels[places(len(labels), fps, fps_out, length)]


def places(count, fps, fps_out, length):
    """Which of `count` frames at fps stands at the middle of each of `length` frames at fps_out; the last one beyond
    the end."""
    middles = ((np.arange(length) + 0.5) * fps / fps_out).astype(int)
    return np.minimum(middles, count - 1)


def to_frames(labels_per_second, length, fps):
    """One label a second [S] -> one a frame [length]."""
    return resample(labels_per_second, 1, fps, length)


def to_seconds(frame_labels, fps, rule="middle", length=None):
    """One label a frame -> one a second [length], by default as many seconds as the frames begin.

    rule: "middle", the label in the middle of each second; or "as_published", the integer targets that the thesis's
    VideoCLIP was trained and measured on: every run of frames painted from floor(start) to ceil(end), later runs over
    earlier ones, where start = first frame / fps and end = (first frame of the next run - 1) / fps (mira318/
    masters_degree, branch windows_dev, mmpt/processors/dsprocessor.py). A second that no run reaches becomes class 0.
    """
    labels = as_labels(frame_labels)
    length = math.ceil(len(labels) / fps) if length is None else length
    if rule == "middle":
        return resample(labels, fps, 1, length)
    if rule == "as_published":
        names, starts, ends = segments(labels)
        return paint(starts / fps, (ends - 1) / fps, names, length)
    raise ValueError(f"rule is {rule!r}; it is one of middle, as_published")


def paint(starts, ends, labels, length):
    """Integer labels of intervals in seconds -> one label a second [length]: floor(start) .. ceil(end) - 1, the later
    of two intervals wins, 0 where there is none (fairseq examples/MMPT, COINActionSegmentationAligner)."""
    seconds = np.zeros(length, dtype=np.int64)
    for start, end, label in zip(starts, ends, labels, strict=True):
        seconds[math.floor(start) : math.ceil(end)] = label
    return seconds


def as_labels(sequence):
    """A label sequence (list, array, tensor) as a numpy array [T] of ints or strings; ValueError for anything else."""
    labels = np.asarray(sequence)
    if labels.dtype.kind in "OT":  # pandas columns of names
        labels = np.asarray(labels.tolist())
    if labels.ndim != 1 or labels.dtype.kind not in "iubU" and labels.size:
        raise ValueError(
            f"a label sequence is one int or string per frame, not an array {labels.shape} of {labels.dtype}"
        )
    return labels


def _pairs(predictions, targets):
    """Checked (prediction, target) pairs, each prediction cut to its target."""
    if len(predictions) != len(targets) or len(targets) == 0:
        raise ValueError(
            f"{len(predictions)} predictions for {len(targets)} targets; need one for each video, and a video"
        )
    pairs = []
    for i, (prediction, target) in enumerate(zip(predictions, targets, strict=True)):
        p, y = as_labels(prediction), as_labels(target)
        if len(y) == 0:
            raise ValueError(f"video {i}: the target is empty")
        if len(p) < len(y):
            raise ValueError(
                f"video {i}: the prediction has {len(p)} frames, its target {len(y)}; it must not be shorter"
            )
        if (p.dtype.kind == "U") != (y.dtype.kind == "U"):
            raise ValueError(f"video {i}: the prediction holds {p.dtype} labels, its target {y.dtype}; use one kind")
        pairs.append((p[: len(y)], y))
    return pairs


def _concatenate(targets):
    if sum(map(len, targets)) == 0:
        raise ValueError("no labels: give at least one label sequence that is not empty")
    return np.concatenate([as_labels(y) for y in targets])


def _bits(mask):
    """A boolean array as one integer, element i in bit i."""
    return int.from_bytes(np.packbits(mask, bitorder="little").tobytes(), "little")


def egomcq_accuracy(similarities, answers, types):
    """Share 0..1 of questions whose most similar clip is the right one, for each type of EgoMCQ.

    similarities [Q, 5] of each question's text and clips, answers [Q] 0..4, types [Q]: 1 = inter, the clips are of
    different videos, 2 = intra, of one. Returns {"inter", "intra"}, NaN for a type without questions. Lin et al., 2022;
    showlab/EgoVLP model/metric.py:219 calls type 1 intra and type 2 inter, which its own data set and paper do not.
    """
    similarities, answers, types = np.asarray(similarities), np.asarray(answers), np.asarray(types)
    if similarities.ndim != 2 or not answers.shape == types.shape == similarities.shape[:1]:
        shapes = f"{similarities.shape}, {answers.shape} and {types.shape}"
        raise ValueError(f"EgoMCQ needs similarities [Q, choices], answers [Q] and types [Q], not {shapes}")
    unknown = np.setdiff1d(types, (1, 2))
    if len(unknown):
        raise ValueError(f"EgoMCQ: a question of type {unknown[0]}; it is 1 (inter) or 2 (intra)")
    right = similarities.argmax(axis=1) == answers
    return {
        name: float(right[types == number].mean()) if (types == number).any() else math.nan
        for name, number in (("inter", 1), ("intra", 2))
    }
