"""What the tests run under torchrun: each function is the program of one process."""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from thesis_lib import paths, runs
from thesis_lib.losses import mil_nce_loss
from thesis_lib.training import alpro, distributed, s3d, svitt, videoclip, videomae


def towers():
    torch.manual_seed(0)
    return torch.nn.Linear(6, 5).double(), torch.nn.Linear(7, 5).double()


def clips_and_texts(batch=8, candidates=3):
    rng = np.random.default_rng(1)
    return (torch.from_numpy(rng.normal(size=(rows, width))) for rows, width in ((batch, 6), (batch * candidates, 7)))


def mil_nce(folder):
    """Gradients of the loss over all clips, when each process encodes its share of them."""
    models, share, rank = towers(), distributed.world_size(), distributed.rank()
    own = [model(x.chunk(share)[rank]) for model, x in zip(models, clips_and_texts(), strict=True)]
    loss = mil_nce_loss(*map(distributed.gather, own))
    (loss / share).backward()  # as one of a group of so many micro-batches
    weights = [parameter for model in models for parameter in model.parameters()]
    distributed.sum_gradients(weights)
    if distributed.rank() == 0:
        torch.save([loss.detach(), *(weight.grad for weight in weights)], folder / "gradients.pt")


def helpers(folder):
    """Rows back in their places, and an error of the first process in all."""
    rows = np.arange(7)[:, None] * np.ones(2)
    whole = distributed.collect(rows[distributed.own_share()], len(rows))
    try:
        distributed.on_first(lambda: 1 / 0)
        said = "nothing"
    except ZeroDivisionError as error:
        said = str(error)
    number = distributed.on_first(lambda: distributed.rank() + 5)
    text = json.dumps({"whole": whole if whole is None else whole.tolist(), "said": said, "number": number})
    (folder / f"{distributed.rank()}.json").write_text(text)


def stage(folder, **inputs):
    """What a cached stage does: says which process it ran in, and how many it thinks there are."""
    with open(folder / "ran.txt", "a") as file:
        file.write(f"{distributed.rank()} of {distributed.world_size()}\n")


def shared_stage(folder, **inputs):
    distributed.wait()
    distributed.sum_over_processes(torch.ones(()))
    stage(folder)
    distributed.wait()


def cache(folder):
    """A stage of one process and a stage of all, twice each."""
    paths.RUNS = folder / "runs"
    for _ in range(2):
        alone = runs.cached(stage, profile="test", number=1)
        together = runs.cached(shared_stage, profile="test", together=True, number=1)
    if distributed.rank() == 0:
        found = {"alone": sorted((alone / "ran.txt").read_text().splitlines())}
        found["together"] = sorted((together / "ran.txt").read_text().splitlines())
        (folder / "found.json").write_text(json.dumps(found))


def train(folder, module, settings):
    settings = json.loads(settings)
    paths = {key: Path(settings[key]) for key in ("features", "howto", "vocab") if key in settings}
    recipes = {"videoclip": videoclip, "s3d": s3d, "alpro": alpro, "svitt": svitt, "videomae": videomae}
    recipes[module].train(folder, **settings | paths)


def train_each(folder, module, *settings):
    """As `train`, several times in the same processes: into folder/0, folder/1, ..."""
    for number, one in enumerate(settings):
        (folder / str(number)).mkdir(exist_ok=True)
        train(folder / str(number), module, one)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.modules["team"] = sys.modules["__main__"]  # a cached stage belongs to a module file
    stage.__module__ = shared_stage.__module__ = "team"
    with distributed.processes():
        globals()[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
