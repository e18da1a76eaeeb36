"""The processes of a training, before and while they know of each other."""

from __future__ import annotations

from itertools import chain, zip_longest
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

T = TypeVar("T")


def is_first() -> bool:
    """Whether this process writes what is written once; known from its environment before a Trainer is there."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def gather(own: T) -> list[T]:
    """What each process has, in their order, on all of them. All have to call it."""
    if not dist.is_initialized():
        return [own]
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone


def share_out(things: list[T], rank: int, world_size: int) -> list[T]:
    """Every ``world_size``-th; the last come again where a process would have fewer than the others."""
    missing = -len(things) % world_size
    return [*things, *things[-1:] * missing][rank::world_size]


def gather_shares(own: list[T], count: int) -> list[T]:
    """What `share_out` dealt, in its first order: the first ``count``, without what came again."""
    in_order = chain.from_iterable(zip_longest(*gather(own)))
    return list(in_order)[:count]
