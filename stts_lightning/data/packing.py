"""Which samples share a sequence: the exact choice under two budgets that Molmo2's own packer makes.

Samples wait in a buffer. Whenever it is full and another one comes, the best set of those that wait leaves it as one
sequence: the highest sum of tokens + 30 x frames whose tokens and frames keep within their budgets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, TypeVar

import numpy as np

FRAME_VALUE = 30  # of a frame or crop, in tokens: full of pictures is better than full of text
BLOCKS = 512  # the token budget is counted in so many blocks, a sample's tokens rounded up to whole ones

T = TypeVar("T")


class Size(NamedTuple):
    """What a sample takes of a sequence: tokens, and frames or crops."""

    tokens: int
    frames: int


@dataclass
class Packer(Generic[T]):
    """A buffer of samples, and the sequences that come out of it; ``waiting`` is its whole state."""

    max_tokens: int
    max_frames: int
    buffer: int = 48
    waiting: list[tuple[T, Size]] = field(default_factory=list)

    def offer(self, sample: T, size: Size) -> list[T] | None:
        """Add a sample; where the buffer was full, the samples of the sequence that leaves it first.

        Raises:
            ValueError: a sample that is larger than a sequence.
        """
        blocks, available = _blocks(size.tokens, self.max_tokens)
        if blocks > available or size.frames > self.max_frames:
            raise ValueError(
                f"a sample of {size.tokens} tokens and {size.frames} frames fits no sequence: data.packing has "
                f"max_tokens={self.max_tokens} and max_frames={self.max_frames}."
            )
        packed = self.pack() if len(self.waiting) >= self.buffer else None
        self.waiting.append((sample, size))
        return packed

    def pack(self) -> list[T]:
        """Take the best sequence out of the buffer."""
        chosen = choose([size for _, size in self.waiting], self.max_tokens, self.max_frames)
        taken = [self.waiting[i][0] for i in chosen]
        left = set(range(len(self.waiting))) - set(chosen)
        self.waiting = [self.waiting[i] for i in sorted(left)]
        return taken


def choose(sizes: Sequence[Size], max_tokens: int, max_frames: int) -> list[int]:
    """Indices, ascending, of the set of the highest value that keeps within both budgets: a 0/1 knapsack, exact but for
    the rounding of tokens to blocks."""
    available = _blocks(0, max_tokens)[1]
    best = np.zeros((available + 1, max_frames + 1), dtype=np.int64)  # value, by blocks and frames at most
    taken = []
    for tokens, frames in sizes:
        blocks = _blocks(tokens, max_tokens)[0]
        takes = np.zeros(best.shape, dtype=bool)
        if blocks <= available and frames <= max_frames:
            without, room = best[blocks:, frames:], best[: available + 1 - blocks, : max_frames + 1 - frames]
            with_it = room + tokens + FRAME_VALUE * frames
            takes[blocks:, frames:] = with_it > without
            best = best.copy()
            best[blocks:, frames:] = np.maximum(without, with_it)
        taken.append(takes)
    chosen, block, frame = [], available, max_frames
    for i in reversed(range(len(sizes))):
        if taken[i][block, frame]:
            chosen.append(i)
            block -= _blocks(sizes[i].tokens, max_tokens)[0]
            frame -= sizes[i].frames
    return chosen[::-1]


def _blocks(tokens: int, max_tokens: int) -> tuple[int, int]:
    """A sample's tokens and the budget, in blocks."""
    block = max(1, max_tokens // BLOCKS)
    return -(-tokens // block), max_tokens // block
