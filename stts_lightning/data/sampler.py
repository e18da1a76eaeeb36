"""The order of the training data, known for every step beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import Sampler


@dataclass(eq=False)
class StepSampler(Sampler[list[int]]):
    """The batches of a run in one order: one permutation after another, each from (seed, epoch).

    Nothing is drawn from the global generator. The ``warmup_batches`` of the scorer come from permutations before
    the first, of the first ``warmup_items`` where given: with or without them, the steps that all methods share see
    the same clips in the same order.
    ``done_batches`` takes up what an interrupted run had left. Each of ``world_size`` processes takes every
    world_size-th item.
    """

    num_items: int
    batch_size: int
    num_batches: int
    seed: int
    warmup_batches: int = 0
    done_batches: int = 0
    rank: int = 0
    world_size: int = 1
    warmup_items: int | None = None

    def __len__(self) -> int:
        """Of the whole run: Lightning counts a resumed run's batches from its beginning."""
        return self.warmup_batches + self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        epoch: int | None = None
        order: list[int] = []
        for batch in range(self.done_batches - self.warmup_batches, self.num_batches):
            num_items = self.num_items if batch >= 0 or self.warmup_items is None else self.warmup_items
            items = []
            for i in range(self.batch_size):
                position = (batch * self.batch_size + i) * self.world_size + self.rank
                if position // num_items != epoch:
                    epoch = position // num_items
                    generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                    order = torch.randperm(num_items, generator=generator).tolist()
                items.append(order[position % num_items])
            yield items


class KindSampler(Sampler[list[int]]):
    """Batches of videos and batches of images, never mixed: ``image_share`` of them are of images, evenly spread.

    Each kind keeps the order that `StepSampler` gives it alone; images are numbered after the videos. The scorer's
    warm-up sees the first ``num_scored`` of the videos only: images have no scores, nor have texts, which are mixed
    with the videos.
    """

    def __init__(
        self,
        num_videos: int,
        num_images: int,
        image_share: float,
        batch_size: int,
        num_batches: int,
        seed: int,
        warmup_batches: int = 0,
        done_batches: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_scored: int | None = None,
    ) -> None:
        self.num_videos = num_videos
        self.image_share = image_share
        self.batches = range(done_batches - warmup_batches, num_batches)
        self.length = warmup_batches + num_batches
        of_images, done_images = (images_before(n, image_share) for n in (num_batches, self.batches.start))
        where = {"rank": rank, "world_size": world_size}
        of_videos = num_batches - of_images
        self.videos = StepSampler(
            num_videos,
            batch_size,
            of_videos,
            seed,
            warmup_batches,
            done_batches - done_images,
            warmup_items=num_scored,
            **where,
        )
        self.images = StepSampler(num_images, batch_size, of_images, seed, 0, done_images, **where)

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        videos, images = iter(self.videos), iter(self.images)
        for batch in self.batches:
            if images_before(batch + 1, self.image_share) > images_before(batch, self.image_share):
                yield [self.num_videos + item for item in next(images)]
            else:
                yield next(videos)


def images_before(batch: int, image_share: float) -> int:
    """How many batches before this one are of images."""
    return int(max(batch, 0) * image_share)
