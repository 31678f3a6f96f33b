"""I3D R50 on consecutive windows, the thesis's loop beside ours: python -m benchmarks.i3d

The loop does what masters_degree I3D/features_util.py does with decoded frames: a buffer of at most 1000 frames becomes
a tensor, BGR, normalised, scaled, cropped; then one window of 21 frames at a time goes through the network, with
gradients on. (The file itself downloads weights, logs to a server and wants a GPU when it is imported.) Weights are
random unless given, and the frames a moving texture of 640 x 480: the times do not depend on them, the deviation of the
dense mode does.
"""

import argparse
import copy
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.measure import alternate, machine, ratio
from thesis_lib.extraction import prepare
from thesis_lib.models.folding import fold_norms
from thesis_lib.models.i3d import I3DR50
from thesis_lib.models.official import load_official

WINDOW = 21
BUFFER = 1000  # frames


def thesis_loop(model: nn.Module, frames: np.ndarray, size: int, device: str) -> torch.Tensor:
    """Frames [N, H, W, 3] uint8 RGB -> [N - 20, 2048], one window after the other."""
    features = []
    for start in range(len(frames) - WINDOW + 1):
        if start % (BUFFER - WINDOW) == 0:
            shift = start
            buffer = torch.tensor(
                np.stack([frame[..., ::-1].transpose(2, 0, 1) for frame in frames[shift:][:BUFFER]], 1)
            )
            buffer = (buffer / 255.0 - 0.45) / 0.225
            height, width = buffer.shape[2:]
            scaled = (size, int(width * size / height))
            buffer = F.interpolate(buffer, scaled, mode="bilinear", align_corners=False)
            left = (scaled[1] - size) // 2
            buffer = buffer[..., left : left + size]
        clip = buffer[:, start - shift : start - shift + WINDOW]
        features.append(model(clip.to(device)[None]).detach().cpu())
    return torch.cat(features).flatten(1)


@torch.inference_mode()
def ours(vectors: Callable, frames: np.ndarray, size: int, device: str) -> torch.Tensor:
    """The same by I3DR50.windows or I3DR50.dense."""
    frames = (prepare(torch.from_numpy(frames).to(device), size) - 0.45) / 0.225
    return vectors(frames.flip(1), WINDOW).cpu()


def network(weights: str | None) -> I3DR50:
    if weights:
        return load_official("i3d_r50", weights, head="window")[0]
    torch.manual_seed(0)
    model = I3DR50(head="window").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):  # a new residual block ends in a norm of 0, and would do nothing
            nn.init.uniform_(module.weight, 0.5, 1.0)
    return model


def video(count: int) -> np.ndarray:
    """[count, 480, 640, 3] uint8: noise in three sizes, moving to the right at different speeds."""
    rng = np.random.default_rng(0)
    layers = [
        np.kron(rng.uniform(0, 85, (480 // cell, 640 // cell, 3)), np.ones((cell, cell, 1))) for cell in (5, 20, 80)
    ]
    moved = (sum(np.roll(x, t * speed, 1) for x, speed in zip(layers, (1, 3, 7), strict=True)) for t in range(count))
    return np.stack([frame.astype(np.uint8) for frame in moved])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--windows", type=int, default=16, help="of the loop and the exact mode; dense: 10 times more")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights", help="I3D_8x8_R50.pyth")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(machine())

    counts = dict.fromkeys(("loop", "exact", "folded"), options.windows) | {"dense": 10 * options.windows}
    frames = video(max(counts.values()) + WINDOW - 1)
    model = network(options.weights).to(options.device)
    theirs = nn.Sequential(*copy.deepcopy(model.blocks[:-1]), nn.AvgPool3d((4, 7, 7), 1), nn.AdaptiveAvgPool3d(1))
    model.to(memory_format=torch.channels_last_3d)
    folded = fold_norms(copy.deepcopy(model))  # as extraction does
    modes = {"exact": model.windows, "folded": folded.windows, "dense": folded.dense}
    features, place = {}, (options.size, options.device)

    def run(name):
        part = frames[: counts[name] + WINDOW - 1]
        if name == "loop":
            features[name] = thesis_loop(theirs, part, *place)
        else:
            features[name] = ours(modes[name], part, *place)

    seconds = alternate({name: lambda name=name: run(name) for name in counts}, options.repeats)
    seconds = {name: [value / counts[name] for value in values] for name, values in seconds.items()}  # a window
    print(f"{WINDOW} x {options.size} x {options.size}, seconds a window: ", end="")
    print(", ".join(f"{name} {median(values):.3f}" for name, values in seconds.items()))
    for name in modes:
        found = features[name][: options.windows]
        largest = (found - features["loop"]).abs().max() / features["loop"].abs().max()
        relative = (found - features["loop"]).norm() / features["loop"].norm()
        cosine = F.cosine_similarity(found, features["loop"]).min()
        print(
            f"{name}: {ratio(seconds, 'loop', name):.1f} times faster than the loop; largest deviation {largest:.1e} "
            f"of the largest value, relative error {relative:.1e}, lowest cosine {cosine:.6f}"
        )


if __name__ == "__main__":
    main()
