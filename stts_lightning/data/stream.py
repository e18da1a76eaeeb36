"""An endless stream of samples, packed into sequences, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from stts_lightning.data.packing import Packer, Size

WARMUP_EPOCHS = 1_000_000  # before the first: the scorer's warm-up reads a stream of its own


@dataclass
class StreamState:
    """Positions in the stream: the next one to read, and those that wait in the buffer, in their order."""

    next: int = 0
    waiting: list[int] = field(default_factory=list)


class StreamSampler(Sampler[int]):
    """The items that wait in ``state`` and all that follow: one permutation after another, as `StepSampler` has them.
    Each of ``world_size`` processes takes every world_size-th position."""

    def __init__(self, num_items: int, seed: int, state: StreamState, rank: int = 0, world_size: int = 1) -> None:
        self.num_items, self.seed, self.state = num_items, seed, state
        self.rank, self.world_size = rank, world_size

    def positions(self) -> Iterator[int]:
        yield from self.state.waiting
        position = self.state.next
        while True:
            yield position
            position += 1

    def __iter__(self) -> Iterator[int]:
        epoch: int | None = None
        order: list[int] = []
        for position in self.positions():
            place = position * self.world_size + self.rank
            if place // self.num_items != epoch:
                epoch = place // self.num_items
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = torch.randperm(self.num_items, generator=generator).tolist()
            yield order[place % self.num_items]


@dataclass
class PackedStream:
    """Batches of ``rows`` packed sequences without end.

    ``samples`` loads one sample after the other, in the order of ``sampler``; ``size`` says what a sample takes of a
    sequence. Each batch comes with where the stream stands after it: one that begins there goes on as this one would.
    """

    samples: DataLoader
    sampler: StreamSampler
    packer: Packer[tuple[int, Any]]
    size: Callable[[Any], Size]
    collate: Callable[[list[list[Any]]], dict[str, Any]]
    rows: int

    def __iter__(self) -> Iterator[tuple[dict[str, Any], StreamState]]:
        self.packer.waiting = []
        packed: list[list[Any]] = []
        for position, sample in zip(self.sampler.positions(), self.samples, strict=False):
            row = self.packer.offer((position, sample), self.size(sample))
            if row is None:
                continue
            packed.append([sample for _, sample in row])
            if len(packed) == self.rows:
                # Samples that waited when this process began are behind the front of the stream.
                front = max(position + 1, self.sampler.state.next)
                waiting = [position for (position, _), _ in self.packer.waiting]
                tokens = sum(self.size(sample).tokens for row in packed for sample in row)
                fill = {
                    "samples_per_sequence": sum(map(len, packed)) / self.rows,
                    "padding": 1 - tokens / self.packer.max_tokens / self.rows,
                }
                yield {**self.collate(packed), "packing": fill}, StreamState(front, waiting)
                packed = []


@dataclass
class PackedBatches:
    """The batches of a run: first those of the scorer's warm-up, then of the kind that ``kind_of`` names for each.

    A batch carries under ``streams`` where all streams stand after it, as plain containers; ``states`` is that of the
    batch before the first.
    """

    streams: dict[str, PackedStream]
    kind_of: Callable[[int], str]  # by the number of the batch; those of the warm-up are below 0
    batches: range
    length: int  # of the whole run: Lightning counts a resumed run's batches from its beginning
    states: dict[str, Any]

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        running: dict[str, Iterator[tuple[dict[str, Any], StreamState]]] = {}
        states = dict(self.states)
        for number in self.batches:
            kind = self.kind_of(number)
            if kind != "warmup":
                running.pop("warmup", None)  # its workers are of no more use
            if kind not in running:
                running[kind] = iter(self.streams[kind])
            batch, state = next(running[kind])
            states = {**states, kind: asdict(state)}
            yield {**batch, "streams": states}
