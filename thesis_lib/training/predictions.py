"""What a segmentation run predicted: predictions.npz, for each video uint8 labels [K, T] and targets [T].

K is what the run kept per video: the stages of ASFormer, or the epochs of a fine-tuning.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from thesis_lib.runs import atomic_save

TARGET = ".target"


def save_predictions(folder: Path, predictions: Mapping[str, np.ndarray], targets: Mapping[str, np.ndarray]) -> None:
    """predictions: video -> labels [K, T]; targets: video -> labels [T]. At most 256 classes."""
    arrays = {name: np.asarray(labels, dtype=np.uint8) for name, labels in predictions.items()}
    arrays |= {f"{name}{TARGET}": np.asarray(targets[name], dtype=np.uint8) for name in predictions}
    atomic_save(Path(folder) / "predictions.npz", lambda file: np.savez_compressed(file, **arrays))


def load_predictions(folder: str | Path, which: int = -1) -> tuple[list[str], list[np.ndarray], list[np.ndarray]]:
    """(names, predictions, targets), one label sequence [T] a video: row `which` of K, the last one by default."""
    with np.load(Path(folder) / "predictions.npz") as file:
        names = [name for name in file.files if not name.endswith(TARGET)]
        return names, [file[name][which] for name in names], [file[f"{name}{TARGET}"] for name in names]
