"""What several processes of one training share: torchrun starts them, torch.distributed joins them.

    torchrun --nproc_per_node=8 -m thesis_lib.training.videoclip --params params/howto100m/05_pretraining.yaml

Everything here does nothing, or the obvious, in a process that is alone.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

PATIENCE = timedelta(hours=6)  # the others wait while the first one searches the vectors of a million videos


@contextmanager
def processes():
    """Joins the processes that torchrun started, each with a GPU of its own where there are GPUs; alone: nothing."""
    if "RANK" not in os.environ or dist.is_initialized():
        yield
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Gradients go through the GPUs' own network; objects and vectors of videos stay in main memory.
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=PATIENCE)
    yield
    dist.destroy_process_group()  # not after an error: the others may wait for this process and never come here


_solo = False  # whether the first process does something by itself just now


def rank() -> int:
    """The number of this process, counted from 0."""
    return dist.get_rank() if dist.is_initialized() and not _solo else 0


def world_size() -> int:
    """How many processes there are; one within `on_first`."""
    return dist.get_world_size() if dist.is_initialized() and not _solo else 1


def on_first(function: Callable):
    """What function() gives in the first process, in all of them; its error is theirs too.

    While it runs, the first process is alone: a training within it is one of a single process.
    """
    global _solo
    if world_size() == 1:
        return function()
    result = [None, None]
    if rank() == 0:
        _solo = True
        try:
            result[0] = function()
        except Exception as error:
            result[1] = error
        finally:
            _solo = False
    dist.broadcast_object_list(result, src=0)
    if result[1] is not None:
        raise result[1]
    return result[0]


def wait() -> None:
    """Returns when all processes have come here."""
    if world_size() > 1:
        dist.barrier()


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Each gradient becomes the sum over the processes; one that a process lacks counts as 0.

    A weight that none has a gradient of keeps none: of zeros the optimizer would let it decay.

    Once a step, after the last backward pass, as legacy_ddp of fairseq does: the pass is never held up by the network,
    and whatever it consists of (several clusters, chunks computed twice) needs no hooks.
    """
    if world_size() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    reached = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.uint8)
    dist.all_reduce(reached, op=dist.ReduceOp.MAX)
    pending = []
    for parameter, anywhere in zip(trained, reached.tolist(), strict=True):
        if anywhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            pending.append(dist.all_reduce(parameter.grad, async_op=True))
    for work in pending:
        work.wait()


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over the processes, without gradient."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def own_share() -> slice:
    """Which of many things this process handles: every world_size-th one, from its rank on."""
    return slice(rank(), None, world_size())


def collect(own: np.ndarray, count: int) -> np.ndarray | None:
    """Rows [n, D] that the processes made of their own shares -> all [count, D], each where it belongs.

    In the first process; the others get None.
    """
    if world_size() == 1:
        return own
    parts = [None] * world_size() if rank() == 0 else None
    dist.gather_object(own, parts, dst=0)
    if parts is None:
        return None
    whole = np.empty((count, *own.shape[1:]), own.dtype)
    for number, part in enumerate(parts):
        whole[number :: world_size()] = part
    return whole


def gather(own: torch.Tensor) -> torch.Tensor:
    """Tensors [B, ...] of all processes, one after the other, with gradients: [world_size * B, ...].

    If every process computes the same loss from the result, the gradient of its own rows is world_size times that of
    the loss, so that the mean over processes of the parameters' gradients is the gradient of the loss.
    """
    return own if world_size() == 1 else _Gather.apply(own)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context, own):
        parts = [torch.empty_like(own) for _ in range(world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context, gradient):
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(world_size())[rank()]
