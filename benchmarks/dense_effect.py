"""What the baseline loses if its I3D features come from the dense mode: python -m benchmarks.dense_effect

Trains the small I3D of a profile, extracts its features exactly and densely, and trains ASFormer on both; what the
profile has computed already is found in runs/.
"""

import argparse
from types import SimpleNamespace

import numpy as np
import pandas as pd

from thesis_lib import params, stages

METRICS = ["accuracy", "edit_score", "f1@10", "f1@50"]


def deviation(dense: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """Of features [D, T] of a corpus: relative error, the same beside what tells frames apart, cosines."""
    error = np.linalg.norm(dense - exact)
    lengths = np.linalg.norm(dense, axis=0) * np.linalg.norm(exact, axis=0)
    cosine = (dense * exact).sum(0) / lengths
    return {
        "relative error": error / np.linalg.norm(exact),
        "relative error after removing the mean": error / np.linalg.norm(exact - exact.mean(1, keepdims=True)),
        "cosine, mean": cosine.mean(),
        "cosine, lowest hundredth": np.quantile(cosine, 0.01),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--splits", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    extraction = params.load("02_feature_extraction", options.profile)
    baseline = params.load("04_baseline", options.profile)

    folders = {}
    for mode in ("exact", "dense"):
        folders[mode] = stages.i3d_features(SimpleNamespace(**vars(extraction) | {"i3d_mode": mode}))
    names = sorted(path.name for path in folders["exact"].glob("*.npy"))
    features = {mode: np.concatenate([np.load(folder / name) for name in names], 1) for mode, folder in folders.items()}
    print(f"{len(names)} videos, {features['exact'].shape[1]} vectors")
    for name, value in deviation(features["dense"], features["exact"]).items():
        print(f"{name}: {value:.4f}")

    rows = []
    for split in options.splits:
        for mode, folder in folders.items():
            run = stages.baseline(baseline, split, features=folder)
            rows.append(
                {"split": split, "features": mode} | pd.read_csv(run / "history.csv").iloc[-1][METRICS].to_dict()
            )
    print(pd.DataFrame(rows).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
