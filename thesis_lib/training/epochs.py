"""Which epoch of a training counts: the last one, or the one with the lowest loss on some videos.

last       the last epoch: nothing is chosen, nothing is held back
held_out   the lowest loss on training videos that the training does not see, all those of some users
test_loss  the lowest loss on the test videos: what the thesis took for VideoCLIP (mira318/masters_degree, branch
           windows_dev, 50salads_videoclip.yaml: val_path is the test bundle, and fairseq keeps checkpoint_best of
           it). A score of that epoch is too good: it was chosen on the videos it is measured on
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from thesis_lib.data import salads
from thesis_lib.training.predictions import load_predictions

COLUMNS = {"last": "", "held_out": "held_out_loss", "test_loss": "test_loss"}  # choice: what is lowest in the history


def column(choice: str) -> str:
    """The column of history.csv that decides, "" for the last epoch. ValueError for an unknown choice."""
    if choice not in COLUMNS:
        raise ValueError(f"epoch_choice={choice!r}: choose one of {', '.join(COLUMNS)}")
    return COLUMNS[choice]


def chosen(history: pd.DataFrame, choice: str = "last", until: int | None = None) -> int:
    """The epoch that counts among those evaluated, of the first `until` alone if given; the earliest among equals."""
    evaluated = history[history["test_loss"].notna()]
    evaluated = evaluated if until is None else evaluated[evaluated["epoch"] <= until]
    decides = column(choice)
    if not len(evaluated) or decides and decides not in evaluated:
        raise ValueError(f"the history has no {decides or 'evaluated epoch'}: train with epoch_choice={choice}")
    return int(evaluated.loc[evaluated[decides].idxmin() if decides else evaluated.index[-1], "epoch"])


def load_chosen(folder: str | Path, choice: str = "last", until: int | None = None) -> tuple[int, list, list, list]:
    """(epoch, names, predictions, targets) of a folder of `finetune.train`, whose predictions are one row an epoch."""
    history = pd.read_csv(Path(folder) / "history.csv")
    epoch, evaluated = chosen(history, choice, until), history[history["test_loss"].notna()]["epoch"]
    return epoch, *load_predictions(folder, evaluated.tolist().index(epoch))


def hold_out(names: Sequence[str], seed: int = 0, share: float = 0.2) -> list[int]:
    """Places of the videos to hold out: all of a share of the users, at least one, drawn by the seed.

    A name that tells no user ("rgb-01-2": user 1) is a user of its own.
    """
    users = [_user(name) for name in names]
    distinct = sorted(set(users), key=str)
    if len(distinct) < 2:
        raise ValueError(f"nothing can be held out of {len(names)} training videos of {len(distinct)} user")
    order = np.random.default_rng(seed).permutation(len(distinct))
    held = {distinct[place] for place in order[: max(1, round(share * len(distinct)))]}
    return [place for place, user in enumerate(users) if user in held]


def _user(name: str) -> int | str:
    try:
        return salads.actor(name)
    except ValueError:
        return name
