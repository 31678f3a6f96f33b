"""What `official.load_official` has to know of a kind of checkpoint file.

The kinds stand beside their networks, whose OFFICIAL they are: an edit there is then one of that network alone.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Kind:
    build: Callable[..., nn.Module]
    accepts: Callable  # whose argument names a caller may give
    signature: tuple[str, ...]  # names that every file of this kind has, and no other kind; regular expressions
    sizes: Callable[[dict], dict]  # tensors by name -> the constructor arguments that their shapes tell
    example: Callable[[nn.Module], torch.Tensor]  # the output for a small input
    dropped: str = r"(?!)"  # names left out on purpose; a regular expression, this one matches nothing
    prefixes: tuple[str, ...] = ()  # that all names of some files have, besides PREFIXES
    optional: str = r"num_batches_tracked$"  # names that may be missing: early versions of torch saved none


def count(tensors, pattern):
    """How many numbers follow each other from 0 where the pattern has its group."""
    return len({match.group(1) for match in map(re.compile(pattern).match, tensors) if match})
