"""The one training loop behind every recipe: seeds, accumulation, clipping, checkpoints, exact resume, a line an epoch.

A recipe brings a model, an optimizer, a schedule and three functions: the batches of an epoch, the loss of a batch,
and what to measure after an epoch. Accumulation over a group of micro-batches gives the gradient that as many
processes give under distributed data parallel: the mean of their gradients, clipped once, one optimizer step.
"""

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from thesis_lib.runs import atomic_save


def choose_device(device: str = "auto") -> torch.device:
    """auto: the first GPU where there is one, the CPU otherwise."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


def seed_everything(seed: int) -> None:
    """Seeds Python's, numpy's and torch's global generators (on all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def polynomial_decay(optimizer, num_steps: int, warmup: int = 0) -> LambdaLR:
    """Linear warm-up over `warmup` optimizer steps, then linear decay to 0 at `num_steps` (fairseq, power 1, end 0)."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return max(0.0, (num_steps - step) / max(1, num_steps - warmup))

    return LambdaLR(optimizer, factor)


def cosine_decay(optimizer, num_steps: int, warmup: int = 0) -> LambdaLR:
    """Linear warm-up over `warmup` optimizer steps under half a cosine that ends at 0 after `num_steps`."""

    def factor(step: int) -> float:
        done = min(step, num_steps) / num_steps
        return min(1.0, (step + 1) / max(1, warmup)) * (0.5 + 0.5 * math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


def fit(
    folder: Path,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], Iterable],
    loss: Callable[[object], torch.Tensor],
    num_epochs: int,
    scheduler=None,
    evaluate: Callable[[int], dict] | None = None,
    evaluate_every: int = 1,
    accumulate: int = 1,
    clip_norm: float | None = None,
    precision: str = "fp32",
    device: torch.device | None = None,
    memory: dict | None = None,
    name: str = "training",
    shown: tuple[str, ...] = ("loss", "accuracy"),
) -> pd.DataFrame:
    """Trains `model` in place and returns its history, one row an epoch.

    batches(epoch): the micro-batches of an epoch, counted from 1; whatever is random in it comes from the global
        generators or from a generator made from the epoch, so that a resumed run repeats it.
    loss(batch): a scalar tensor. `accumulate` of them make one optimizer step, each weighing one over the number in its
        group (the last group of an epoch may be shorter). `clip_norm` bounds the gradient of the whole group.
    scheduler: steps once an optimizer step; a ReduceLROnPlateau once an epoch, on the epoch's mean training loss.
    evaluate(epoch): columns for the history, called without gradients, in eval mode, every `evaluate_every` epochs
        and after the last one.
    memory: plain values and tensors that the recipe keeps across epochs; they survive a kill with the rest.

    Writes history.csv and checkpoint.pt after each epoch and weights.pt at the end, atomically. Where a checkpoint lies
    in `folder` it goes on from there, with the same result, bit for bit on one CPU, as if it had never stopped.
    Raises FloatingPointError when the loss is not finite, ValueError when an epoch has no batches.
    """
    folder = Path(folder)
    device = device or next(model.parameters()).device
    memory = {} if memory is None else memory
    rows: list[dict] = []
    if (folder / "checkpoint.pt").exists():
        rows = _restore(folder / "checkpoint.pt", model, optimizer, scheduler, memory)
        print(f"{name}  goes on after epoch {len(rows)}/{num_epochs}", flush=True)

    done_before, start = len(rows), time.perf_counter()
    for epoch in range(len(rows) + 1, num_epochs + 1):
        epoch_start = time.perf_counter()
        model.train()
        losses = []
        for group in _groups(batches(epoch), accumulate):
            optimizer.zero_grad(set_to_none=True)
            for batch in group:
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    value = loss(batch)
                (value / len(group)).backward()
                losses.append(value.detach())
            if clip_norm:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            optimizer.step()
            if scheduler is not None and not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()
        if not losses:
            raise ValueError(f"{name}: epoch {epoch} has no batches")
        mean_loss = torch.stack(losses).float().mean().item()
        if not np.isfinite(mean_loss):
            raise FloatingPointError(f"{name}: the loss of epoch {epoch} is {mean_loss}; try a lower learning rate")
        lr = optimizer.param_groups[0]["lr"]
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(mean_loss)

        row = {"epoch": epoch, "loss": mean_loss, "lr": lr}
        if evaluate and (epoch % evaluate_every == 0 or epoch == num_epochs):
            model.eval()
            with torch.no_grad():
                row |= evaluate(epoch)
        rows.append(row)
        _save(folder / "checkpoint.pt", model, optimizer, scheduler, memory, rows)
        _write_history(folder, rows)

        now = time.perf_counter()
        left = (now - start) / (epoch - done_before) * (num_epochs - epoch)
        values = "  ".join(f"{key} {row[key]:.3f}" for key in shown if key in row)
        print(f"{name}  epoch {epoch}/{num_epochs}  {values}  {now - epoch_start:.1f} s  left {left:.0f} s", flush=True)

    history = _write_history(folder, rows)
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    atomic_save(folder / "weights.pt", lambda file: torch.save(weights, file))
    model.eval()
    return history


def _write_history(folder: Path, rows: list[dict]) -> pd.DataFrame:
    history = pd.DataFrame(rows)
    atomic_save(folder / "history.csv", lambda file: history.to_csv(file, index=False))
    return history


def _groups(batches: Iterable, size: int) -> Iterator[list]:
    batches = iter(batches)
    while group := list(islice(batches, size)):
        yield group


def _save(path: Path, model, optimizer, scheduler, memory: dict, rows: list[dict]) -> None:
    kind, keys, *rest = np.random.get_state()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict() if scheduler is not None else None,
        "memory": memory,
        "rows": rows,
        "random": random.getstate(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    atomic_save(path, lambda file: torch.save(state, file))


def _restore(path: Path, model, optimizer, scheduler, memory: dict) -> list[dict]:
    """Puts everything back in place and returns the history so far."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if scheduler is not None:
        scheduler.load_state_dict(state["scheduler"])
    memory.update(state["memory"])
    random.setstate(state["random"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    return state["rows"]
