"""The one training loop behind every recipe: accumulation, clipping, several processes, checkpoints, exact resume.

A recipe brings a model, an optimizer, a schedule and functions: what an epoch holds, how to load a micro-batch, its
loss, what to measure after an epoch. A group of micro-batches makes one optimizer step with the mean of their
gradients, clipped once, whether one process adds them up or several compute some each. All that is random in a
micro-batch follows from its place in the training (epoch and number), never from what ran before it: so a run that was
killed, or goes on with other processes, is the run that never stopped.
"""

import errno
import math
import random
import time
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.utils.data import DataLoader

from thesis_lib.runs import atomic_save
from thesis_lib.training import distributed

STEPS_PER_EPOCH = 25  # of the log and the checkpoints, where random batches know no epochs
SPARED = 30.0  # seconds of training sooner done again than saved: a checkpoint can cost a tenth of a short epoch


def choose_device(device: str = "auto") -> torch.device:
    """auto: the GPU of this process where there is one, the CPU otherwise."""
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


def cosine_decay(optimizer, num_steps: int, warmup: int = 0, last_lr: float = 0.0) -> LambdaLR:
    """Linear warm-up over `warmup` optimizer steps, then half a cosine to the rate `last_lr` at `num_steps`.

    Groups with rates of their own fall by the same shares as the optimizer's.
    """
    first_lr = optimizer.defaults["lr"]
    last = last_lr / first_lr if first_lr else 0.0

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        return last + (1 - last) * (0.5 + 0.5 * math.cos(math.pi * done))

    return LambdaLR(optimizer, factor)


def fit(
    folder: Path,
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Callable[[int], Sequence],
    load: Callable[[Hashable], object],
    loss: Callable[[object], torch.Tensor],
    num_epochs: int,
    scheduler=None,
    evaluate: Callable[[int], dict] | None = None,
    evaluate_every: int = 1,
    accumulate: int = 1,
    clip_norm: float | None = None,
    precision: str = "fp32",
    seed: int = 0,
    workers: int = 0,
    save_every: float = 600.0,
    memory: dict | None = None,
    choose: str = "",
    name: str = "training",
    shown: tuple[str, ...] = ("loss", "accuracy"),
) -> pd.DataFrame:
    """Trains `model` in place and returns its history, one row an epoch.

    batches(epoch): the plan of an epoch, counted from 1: a list that says of each micro-batch what load() needs, small
        and picklable. Called again when a run goes on in the middle of an epoch: it must give the same plan then.
    load(item): a micro-batch, as tensors (or tuples of them) on the CPU. It draws its random numbers from generators
        made from `item`. `workers` processes run it ahead of time; 0: in the training process.
    loss(batch): a scalar tensor, of the micro-batch on the model's device. `accumulate` of them make one optimizer
        step, each weighing one over the number in its group (the last group of an epoch may be shorter). `clip_norm`
        bounds the gradient of the whole group. Before each call torch's generators are seeded anew from (seed, epoch,
        number of the micro-batch), for dropout.
    scheduler: steps once an optimizer step; a ReduceLROnPlateau once an epoch, on the epoch's mean training loss.
    evaluate(epoch): columns for the history, called without gradients, in eval mode, every `evaluate_every` epochs
        and after the last one; in the first process alone.
    memory: plain values and tensors that the recipe keeps; they survive a kill with the rest.
    save_every: seconds between checkpoints within an epoch. One follows an epoch where SPARED seconds have passed since
        the one before, an epoch that is chosen so far, and the last one.
    choose: a column of the history: weights.pt is of the epoch where it is lowest, the earliest among equals. "": of
        the last epoch, in which `model` is left in any case.
    precision: fp32, or bf16 for the forward pass of training (autocast).

    Under torchrun each process takes its share of every group; the result is that of one process, but for rounding.

    Writes checkpoint-<steps>.pt, of which the two newest stay, history.csv after each epoch and weights.pt at the end,
    each whole or not at all. Where a readable checkpoint lies in `folder` it goes on from the newest one, bit for bit
    the same on one CPU as if it had never stopped. history.csv has the mean gradient norm before clipping if clip_norm
    is given. Raises FloatingPointError when the loss is not finite, ValueError when an epoch has no batches, OSError
    when the disk is full.
    """
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision={precision!r}: choose one of fp32, bf16")
    folder, memory = Path(folder), {} if memory is None else memory
    first, share = distributed.rank() == 0, distributed.world_size()
    device = next(model.parameters()).device
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    rows, steps, done = _restore(folder, model, optimizer, scheduler, memory) or ([], 0, _no_steps())
    distributed.wait()  # before the first process writes what the others still read
    if steps and first:
        within = len(done["losses"])
        print(
            f"{name}  goes on after epoch {len(rows)}/{num_epochs}{f' and {within} steps' * bool(within)}", flush=True
        )

    order = _Order()
    loader = DataLoader(
        Loading(load), sampler=order, batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )
    start, epochs_before, saved = time.perf_counter(), len(rows), time.perf_counter()
    for epoch in range(len(rows) + 1, num_epochs + 1):
        epoch_start = time.perf_counter()
        plan = list(enumerate(batches(epoch)))
        groups = [plan[start : start + accumulate] for start in range(0, len(plan), accumulate)]
        if not groups:
            raise ValueError(f"{name}: epoch {epoch} has no batches")
        left = groups[len(done["losses"]) :]
        order.items = [item for group in left for _, item in group[distributed.rank() :: share]]
        loaded = iter(loader)
        model.train()
        for group in left:
            optimizer.zero_grad(set_to_none=True)
            total = torch.zeros((), device=device)
            for number, _ in group[distributed.rank() :: share]:
                batch = _to(next(loaded), device)
                _seed_device(device, seed, epoch, number)
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    value = loss(batch)
                (value / len(group)).backward()
                total += value.detach()
            distributed.sum_gradients(trained)
            if clip_norm:
                done["norms"].append(torch.nn.utils.clip_grad_norm_(trained, clip_norm).detach())
            optimizer.step()
            if scheduler is not None and not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()
            done["losses"].append(distributed.sum_over_processes(total))
            steps += 1
            if first and time.perf_counter() - saved > save_every and group is not left[-1]:
                mean = _finite(done["losses"][-1] / len(group), epoch, name)
                _finite(sum(done["norms"], torch.zeros(())), epoch, name, "gradient")
                _save(folder, model, optimizer, scheduler, memory, rows, steps, done)
                saved = time.perf_counter()
                where = f"epoch {epoch}/{num_epochs} step {len(done['losses'])}/{len(groups)}"
                print(f"{name}  {where}  loss {mean:.3f}", flush=True)

        mean_loss = _finite(torch.stack(done["losses"]).sum() / len(plan), epoch, name)
        row = {"epoch": epoch, "loss": mean_loss, "lr": optimizer.param_groups[0]["lr"]}
        if clip_norm:
            row["gradient_norm"] = _finite(torch.stack(done["norms"]).mean(), epoch, name, "gradient")
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(mean_loss)
        if evaluate and (epoch % evaluate_every == 0 or epoch == num_epochs):
            model.eval()
            with torch.no_grad():
                row |= distributed.on_first(lambda epoch=epoch: evaluate(epoch))
        if choose in row:
            _finite(torch.tensor(row[choose]), epoch, name, choose)
        rows.append(row)
        done = _no_steps()
        if first:
            if lowest := choose and is_lowest(rows, choose):
                _save_weights(folder, model)  # and a checkpoint beside it: elsewhere the epoch may come out otherwise
            if lowest or epoch == num_epochs or time.perf_counter() - saved > min(SPARED, save_every):
                _save(folder, model, optimizer, scheduler, memory, rows, steps, done)
                saved = time.perf_counter()
            _write_history(folder, rows)
            now = time.perf_counter()
            ahead = (now - start) / (epoch - epochs_before) * (num_epochs - epoch)
            values = "  ".join(f"{key} {row[key]:.3f}" for key in shown if key in row)
            took = f"{now - epoch_start:.1f} s  left {ahead:.0f} s"
            print(f"{name}  epoch {epoch}/{num_epochs}  {values}  {took}", flush=True)

    if first:
        _write_history(folder, rows)
        if not choose:
            _save_weights(folder, model)
    distributed.wait()
    model.eval()
    return pd.DataFrame(rows)


def is_lowest(rows: Sequence[dict], column: str) -> bool:
    """Whether the last row has a value in the column, below those of all rows before."""
    *before, value = [row.get(column, math.inf) for row in rows]
    return value < min(before, default=math.inf)


def numbered(epoch: int, num_steps: int) -> list[tuple[int, int]]:
    """The plan of an epoch where random batches know none: (epoch, number) of each of its steps, num_steps in all."""
    return [(epoch, number) for number in range(min(STEPS_PER_EPOCH, num_steps - (epoch - 1) * STEPS_PER_EPOCH))]


def num_epochs_of(num_steps: int) -> int:
    """How many of those epochs there are."""
    return math.ceil(num_steps / STEPS_PER_EPOCH)


class _Order:
    """The items that a loader asks for, changed before each epoch: the items themselves travel to its workers.

    So workers that live on for the whole run can keep no plan of an epoch before.
    """

    items: Sequence = ()

    def __iter__(self) -> Iterator:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


class Loading:
    """load() as a dataset."""

    def __init__(self, load: Callable):
        self.load = load

    def __getitem__(self, item):
        return self.load(item)


def _seed_device(device: torch.device, *numbers: int) -> None:
    """As torch.manual_seed, which asks every kind of device each time: a twentieth of a small step."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _to(batch, device: torch.device):
    """Tensors, in tuples and lists too, on the device; all else as it is."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, tuple | list):
        return type(batch)(_to(part, device) for part in batch)
    return batch


def _no_steps() -> dict[str, list[torch.Tensor]]:
    """Of the epoch under way: of each step the sum of its losses, and its gradient norm."""
    return {"losses": [], "norms": []}


def _finite(value: torch.Tensor, epoch: int, name: str, what: str = "loss") -> float:
    if not value.isfinite():
        raise FloatingPointError(f"{name}: the {what} of epoch {epoch} is {value:.3g}; try a lower learning rate")
    return value.item()


def _save_weights(folder: Path, model: torch.nn.Module) -> None:
    weights = {key: value.cpu() for key, value in model.state_dict().items()}
    atomic_save(folder / "weights.pt", lambda file: torch.save(weights, file))


def _write_history(folder: Path, rows: list[dict]) -> None:
    history = pd.DataFrame(rows)
    atomic_save(folder / "history.csv", lambda file: history.to_csv(file, index=False))


def _save(folder: Path, model, optimizer, scheduler, memory: dict, rows: list[dict], steps: int, epoch: dict) -> None:
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict() if scheduler is not None else None,
        "memory": memory,
        "rows": rows,
        "steps": steps,
        "epoch": epoch,
    }
    path = folder / f"checkpoint-{steps:09}.pt"
    try:
        atomic_save(path, lambda file: torch.save(state, file))
    except (OSError, RuntimeError) as error:  # torch turns a failed write into a RuntimeError
        older = _checkpoints(folder)
        kept = f"{older[0].name} is whole" if older else "there is none yet"
        if getattr(error, "errno", None) == errno.ENOSPC or "write" in str(error):
            raise OSError(errno.ENOSPC, f"{path}: the disk is full; of the checkpoints before, {kept}") from error
        raise
    for old in _checkpoints(folder)[2:]:
        old.unlink()


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("checkpoint-*.pt"), reverse=True)


def _restore(folder: Path, model, optimizer, scheduler, memory: dict) -> tuple[list[dict], int, dict] | None:
    """Puts everything back in place from the newest checkpoint that can be read; gives rows, steps and epoch."""
    device = next(model.parameters()).device
    if distributed.rank() == 0:
        for half in folder.glob("checkpoint-*.tmp"):  # of a run killed while it saved
            half.unlink()
    path = distributed.on_first(lambda: _newest_readable(folder))
    if path is None:
        return None
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if scheduler is not None:
        scheduler.load_state_dict(state["scheduler"])
    memory.update(state["memory"])
    return state["rows"], state["steps"], {key: _to(values, device) for key, values in state["epoch"].items()}


def _newest_readable(folder: Path) -> Path | None:
    """A damaged checkpoint is set aside as <name>.damaged, so that it counts as none."""
    for path in _checkpoints(folder):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            return path
        except MemoryError:
            raise
        except Exception as error:  # torch raises half a dozen types for a damaged file
            warnings.warn(f"{path}: damaged ({type(error).__name__}); the one before it is taken", stacklevel=4)
            path.rename(path.with_suffix(".pt.damaged"))
    return None
