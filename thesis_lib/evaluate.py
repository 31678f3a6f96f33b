"""Scores of a folder of predictions: what `thesis evaluate` prints and writes.

Ground truth is a class name a line, a line a frame (MS-TCN, `groundTruth/<video>.txt`). A prediction is the same, or
what MS-TCN and ASFormer write: the line `### Frame level recognition: ###`, then all names on one line. Its file is
called `<video>.txt` or `<video>`. Files with other endings and hidden files are passed over.
"""

import json
from pathlib import Path

import pandas as pd

from thesis_lib import metrics

HEADER = "### Frame level recognition: ###"
COLUMNS = {  # key of metrics.evaluate: heading, format
    "accuracy": ("accuracy ↑", "{:.4f}"),
    "edit_score": ("edit score ↑", "{:.2f}"),
    "f1@10": ("F1@10 ↑", "{:.4f}"),
    "f1@25": ("F1@25 ↑", "{:.4f}"),
    "f1@50": ("F1@50 ↑", "{:.4f}"),
    "frame_levenshtein": ("Levenshtein, frames ↓", "{:.1f}"),
}


def main_table(predictions_dir, ground_truth_dir, fps_out=None, json_path=None, **options):
    """Print the table of `folders`, one row a video and one for all, and write its record as JSON."""
    record = folders(predictions_dir, ground_truth_dir, fps_out, **options)
    rows = record["per_video"] | {f"all {len(record['per_video'])}": record["metrics"]}
    table = pd.DataFrame.from_dict(rows, orient="index")[list(COLUMNS)]
    text = pd.DataFrame({heading: table[key].map(form.format) for key, (heading, form) in COLUMNS.items()})
    print(text.to_string())
    print(f"constant class: accuracy {record['constant_class_accuracy']:.4f}")
    if record["without_prediction"]:
        names = record["without_prediction"]
        total = len(names) + len(record["per_video"])
        print(f"not scored, no prediction: {len(names)} of {total} videos ({names[0]} ...)")
    if json_path:
        Path(json_path).write_text(json.dumps(record, indent=1) + "\n")
    return record


def folders(
    predictions_dir, ground_truth_dir, fps_out=None, fps=30.0, bundle=None, segment_end="exclusive", background=()
):
    """Metrics of every video that has a prediction, as a record that JSON can hold.

    fps_out: evaluate at this rate instead of the labels' own `fps`; both are read at the middle of each new frame.
    bundle: a file that lists the videos to score, such as splits/test.split1.bundle; all of them must be there.
    segment_end, background: as in metrics.evaluate.
    Returns metrics, per_video {name: metrics}, constant_class_accuracy (best single class), fps, the settings, and
    without_prediction: ground-truth videos not scored. ValueError, FileNotFoundError name the file and what is wrong.
    """
    predictions, truths = _files(predictions_dir), _files(ground_truth_dir)
    names = sorted(predictions) if bundle is None else _bundle(bundle)
    pairs = {}
    for name in names:
        if name not in truths:
            raise ValueError(f"no ground truth for {predictions.get(name, name)}: {ground_truth_dir} has no {name}.txt")
        if name not in predictions:
            raise ValueError(f"no prediction of {name} in {predictions_dir}, though {bundle} lists it")
        prediction, truth = read_labels(predictions[name]), read_labels(truths[name])
        if len(prediction) < len(truth):
            raise ValueError(f"{predictions[name]}: {len(prediction)} frames, but {truths[name]} has {len(truth)}")
        pairs[name] = prediction[: len(truth)], truth
    predicted, true = (set().union(*side) for side in zip(*pairs.values(), strict=True))
    if not predicted & true:
        raise ValueError(
            f"no label in common: {min(predicted)!r} is predicted, {min(true)!r} is true; write class names"
        )
    if fps_out is not None:
        if min(fps_out, fps) <= 0:
            raise ValueError(f"frame rates must be positive, not {fps} and {fps_out}")
        pairs = {name: [metrics.resample(side, fps, fps_out).tolist() for side in pair] for name, pair in pairs.items()}
    settings = {"segment_end": segment_end, "background": background}
    targets = [y for _, y in pairs.values()]
    return {
        "metrics": metrics.evaluate([p for p, _ in pairs.values()], targets, **settings),
        "constant_class_accuracy": metrics.constant_class_accuracy(targets),
        "fps": fps_out or fps,
        **settings,
        "without_prediction": sorted(set(truths) - set(names)),
        "per_video": {name: metrics.evaluate([p], [y], **settings) for name, (p, y) in pairs.items()},
    }


def read_labels(path):
    """Labels of one file, either format -> list of str. ValueError names the line that fits neither."""
    try:
        lines = Path(path).read_text().rstrip().splitlines()
    except UnicodeDecodeError:
        raise ValueError(
            f"{path}: not a text file; expected a label a line, or {HEADER!r} and a line of labels"
        ) from None
    if lines and lines[0].strip() == HEADER:
        if len(lines) != 2:
            raise ValueError(f"{path}: {len(lines) - 1} lines after {HEADER!r}; expected one, with all labels")
        return lines[1].split()
    if not lines:
        raise ValueError(f"{path}: empty; expected a label a line, or {HEADER!r} and a line of labels")
    for number, line in enumerate(lines, 1):
        if len(line.split()) != 1 or line.startswith("#"):
            raise ValueError(f"{path}, line {number}: {line[:40]!r} is not one label, nor is {HEADER!r} the first line")
    return [line.strip() for line in lines]


def _files(folder):
    """{video: file} of a folder of label files."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected one file of labels a video")
    files = [f for f in sorted(folder.iterdir()) if f.is_file() and f.suffix in ("", ".txt") and f.name[0] != "."]
    if not files:
        raise FileNotFoundError(f"{folder} holds no <video>.txt nor <video>; expected one file of labels a video")
    named = {}
    for file in files:
        if file.stem in named:
            raise ValueError(f"{named[file.stem]} and {file} are both about {file.stem}; keep one")
        named[file.stem] = file
    return named


def _bundle(path):
    """Names of the videos that a bundle lists, a file name a line; lines with # are comments."""
    names = [line.strip().removesuffix(".txt") for line in Path(path).read_text().splitlines()]
    names = [name for name in names if name and not name.startswith("#")]
    if not names:
        raise ValueError(f"{path} lists no video")
    return names
