"""The order of the training data, known for every step beforehand."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class StepSampler(Sampler[list[int]]):
    """Batches for a number of steps: one permutation after another, each from (seed, epoch).

    Nothing is drawn from the global generator, and ``start_batch`` takes up the very order that an
    interrupted run had. Each of ``world_size`` processes takes every world_size-th item of the same order.
    """

    def __init__(
        self,
        num_items: int,
        batch_size: int,
        num_batches: int,
        seed: int,
        start_batch: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_items = num_items
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.seed = seed
        self.start_batch = start_batch
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return max(self.num_batches - self.start_batch, 0)

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, []
        for batch in range(self.start_batch, self.num_batches):
            items = []
            for i in range(self.batch_size):
                position = (batch * self.batch_size + i) * self.world_size + self.rank
                if position // self.num_items != epoch:
                    epoch = position // self.num_items
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.num_items, generator=generator).tolist()
                items.append(order[position % self.num_items])
            yield items
