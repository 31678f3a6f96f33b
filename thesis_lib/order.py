"""Does a model see the order of frames? Accuracy on clips as they are, less that on the same clips shuffled.

Two synthetic tasks over the same clips tell what the number means: one is solved by looks alone, the other by order
alone. A model that averages over frames has exactly 0 on both (Li et al., SViTT, CVPR 2023, ask the same of data sets).
"""

from collections.abc import Callable

import numpy as np
import torch

TASKS = "appearance", "order"
COLORS = np.array([(230, 60, 50), (50, 90, 230)]) / 255  # the two classes of the first task


def order_tasks(
    rng: np.random.Generator, count: int, frames: int = 4, size: int = 32
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """(clips [count, 3, frames, size, size] in 0..1, labels [count] of 0 and 1 for each of TASKS).

    A square crosses a noisy ground. appearance: it is red or blue; order: it goes right or left, through the same
    places, so that no frame and no set of frames tells. Both labels are independent and balanced.
    """
    side, grounds = max(2, size // 4), rng.uniform(0.3, 0.6, (count, 1, 1, 1, 1))
    clips = rng.standard_normal((count, 3, frames, size, size), dtype=np.float32)
    clips *= 0.03
    clips += grounds.astype(np.float32)
    labels = {task: rng.permutation(np.arange(count) % 2) for task in TASKS}
    places = np.round(np.linspace(0, size - side, frames)).astype(int)
    for number in range(count):
        top = rng.integers(size - side + 1)
        color = COLORS[labels["appearance"][number]] + rng.normal(0, 0.03, 3)
        for time, left in enumerate(places[:: -1 if labels["order"][number] else 1]):
            clips[number, :, time, top : top + side, left : left + side] = color[:, None, None]
    clips.clip(0, 1, out=clips)
    return torch.from_numpy(clips), {task: torch.from_numpy(found) for task, found in labels.items()}


def shuffle_frames(clips: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Clips [N, C, T, H, W] with the frames of each in an order of its own, all orders equally likely."""
    orders = torch.from_numpy(rng.permuted(np.tile(np.arange(clips.shape[2]), (len(clips), 1)), axis=1))
    return clips.gather(2, orders.to(clips.device)[:, None, :, None, None].expand_as(clips))


def in_order_and_shuffled(
    features_or_predict: Callable,
    clips: torch.Tensor,
    rng: np.random.Generator,
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is said of clips as they are, and with the frames of each in another order, on the CPU.

    features_or_predict: an Encoder of any system, or a function of clips [B, 3, T, S, S] in 0..1 that gives vectors
    [B, D] or classes [B] (ints), on the device.
    """
    function = getattr(features_or_predict, "features", features_or_predict)

    def values(change: Callable) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([torch.as_tensor(function(change(part).to(device))).cpu() for part in clips.split(batch)])

    return values(lambda part: part), values(lambda part: shuffle_frames(part, rng))


def sensitivity(in_order: torch.Tensor, shuffled: torch.Tensor, labels, rng: np.random.Generator) -> dict[str, float]:
    """{"ordered", "shuffled", "sensitivity"} of `in_order_and_shuffled`, for labels [N].

    On vectors a linear probe learns from one half of the clips, in order, and is asked about the other half; classes
    are taken as they are, of all clips. Raises ValueError for fewer than 4 clips.
    """
    labels = torch.as_tensor(labels)
    if len(in_order) < 4 or len(labels) != len(in_order):
        raise ValueError(f"{len(in_order)} clips and {len(labels)} labels: at least 4 clips, a label each")
    if in_order.dim() == 1:
        found = {"ordered": in_order == labels, "shuffled": shuffled == labels}
    else:
        one, other = torch.from_numpy(rng.permutation(len(in_order))).tensor_split(2)
        probe = linear_probe(in_order[one], labels[one])
        found = {
            "ordered": probe(in_order[other]) == labels[other],
            "shuffled": probe(shuffled[other]) == labels[other],
        }
    accuracy = {name: float(right.double().mean()) for name, right in found.items()}
    return accuracy | {"sensitivity": accuracy["ordered"] - accuracy["shuffled"]}


def linear_probe(vectors: torch.Tensor, labels: torch.Tensor, ridge: float = 0.01) -> Callable:
    """Least squares onto the classes of standardised vectors [N, D]: a function of vectors [M, D] -> classes [M].

    ridge: weight of the squared coefficients, as a share of N; in double precision.
    """
    vectors = vectors.double()
    mean, scale = vectors.mean(dim=0), vectors.std(dim=0).clamp(min=1e-6)
    classes, targets = labels.unique(return_inverse=True)
    design = (vectors - mean) / scale
    wanted = torch.nn.functional.one_hot(targets, len(classes)).double()
    gram = design.T @ design + ridge * len(design) * torch.eye(design.shape[1], dtype=torch.float64)
    weights, offset = torch.linalg.solve(gram, design.T @ (wanted - wanted.mean(dim=0))), wanted.mean(dim=0)
    return lambda new: classes[((new.double() - mean) / scale @ weights + offset).argmax(dim=1)]
