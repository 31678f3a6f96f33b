"""A small noisy recipe for the tests of the loop, to be run in this process or as a program of its own."""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from thesis_lib.training import distributed, loop


class Killed(Exception):
    pass


def train(folder, *, die_at=None, save_every=600.0, sleep=0.0, workers=0, scheduler="step"):
    """4 epochs of 7 micro-batches of different sizes in groups of 3, dropout on, gradients clipped.

    die_at: raises when this micro-batch, counted over all epochs of this process, is about to be computed.
    """
    loop.seed_everything(3)
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    if scheduler == "step":
        schedule = loop.polynomial_decay(optimizer, num_steps=30, warmup=4)
    else:
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    memory, calls = {"epochs": []}, iter(range(1000))

    def batches(epoch):
        if epoch not in memory["epochs"]:
            memory["epochs"].append(epoch)
        return [(epoch, int(number)) for number in np.random.default_rng(epoch).permutation(7)]

    def load(item):
        rng = np.random.default_rng(item)
        x = torch.from_numpy(rng.normal(size=(2 + item[1], 5))).float()
        return x, x.sum(1, keepdim=True)

    def loss(batch):
        if next(calls) == die_at:
            raise Killed
        time.sleep(sleep)
        return (model(batch[0]) - batch[1]).square().mean()

    return loop.fit(
        Path(folder),
        model=model,
        optimizer=optimizer,
        scheduler=schedule,
        batches=batches,
        load=load,
        loss=loss,
        evaluate=lambda epoch: {"epochs_seen": len(memory["epochs"]), "training": model.training},
        num_epochs=4,
        accumulate=3,
        clip_norm=0.05,
        seed=5,
        workers=workers,
        save_every=save_every,
        memory=memory,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--die-at", type=int)
    parser.add_argument("--save-every", type=float, default=600.0)
    parser.add_argument("--sleep", type=float, default=0.0)
    arguments = vars(parser.parse_args())
    with distributed.processes():
        train(**arguments)
