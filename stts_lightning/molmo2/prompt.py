"""The pruned windows' placeholders leave the prompt, and everything that runs beside it."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = -100  # transformers' label of a token without loss

# Molmo2's encoding of packed samples and message trees (its text preprocessor and packer).
SAMPLE_STRIDE = 100_000  # added once a sample
SHARED_PREFIX = 10_000  # of the tokens that all branches of a sample see; branch i has i


class PromptCounts(NamedTuple):
    """What the host knows of a batch of prompts, so that no length has to be read back from the device.

    One entry a row: real tokens and placeholders. ``labels`` is the most labels that a row predicts, 0 without
    labels; ``pad_left`` is the side of the padding.
    """

    lengths: list[int]
    placeholders: list[int]
    labels: int
    pad_left: bool


def count_prompts(
    input_ids: Tensor, attention_mask: Tensor | None, placeholder_id: int, labels: Tensor | None = None
) -> PromptCounts:
    """Count (B, L) prompts. Waits for the device if they are on one: count them before they go there."""
    real_BL = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    return PromptCounts(
        lengths=real_BL.sum(1).tolist(),
        placeholders=(input_ids == placeholder_id).sum(1).tolist(),
        labels=0 if labels is None else int((labels[:, 1:] != IGNORE).sum(1).max()),
        pad_left=not bool(real_BL[:, 0].all()),
    )


class ShortPrompt(NamedTuple):
    """A prompt without the placeholders of pruned windows.

    ``index_BL`` is the place in the given prompt, -1 for padding; ``lengths`` count the real tokens of each
    row. ``position_ids`` are renumbered or original.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    index_BL: Tensor
    lengths: list[int]

    def follow(self, x_BL: Tensor | None, fill: float) -> Tensor | None:
        """Shorten a tensor that ran beside the given prompt: labels, token types, weights."""
        if x_BL is None:
            return None
        return x_BL.gather(1, self.index_BL.clamp(min=0)).masked_fill(self.index_BL < 0, fill)


def shorten(
    input_ids: Tensor,
    keep_M: Tensor,
    placeholder_id: int,
    counts: PromptCounts,
    dropped: list[int],
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    subsegment_ids: Tensor | None = None,
    positions: str = "renumbered",
    pad_id: int = 0,
    pad_left: bool | None = None,
    pad_to: int = 0,
) -> ShortPrompt:
    """Drop the placeholders of windows that left; frame markers and timestamps stay.

    Every length follows from ``counts`` and ``dropped``: nothing waits for the device.

    Args:
        input_ids: (B, L), the placeholders of all rows in the order of the videos.
        keep_M: (M,) one flag a window of the batch.
        dropped: placeholders that leave, by row (`dropped_by_row`).
        subsegment_ids: (B, L) ids of samples and branches (see `language.py`); positions restart with each
            sample, so a sample's gaps must not move its neighbour.
        pad_left: side of the padding of the result; None keeps the given side.
        pad_to: length of the result, where its prompts are no longer and the given ones no shorter.
    """
    pad_left = counts.pad_left if pad_left is None else pad_left
    real_BL = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    placeholder_BL = input_ids == placeholder_id
    leaves_BL = torch.zeros_like(placeholder_BL).masked_scatter(placeholder_BL, ~keep_M)
    stays_BL = real_BL & ~leaves_BL

    lengths = [length - left for length, left in zip(counts.lengths, dropped, strict=True)]
    longest = min(max(*lengths, pad_to), input_ids.shape[1])
    # A stable sort brings the tokens that stay together without changing their order.
    order = (stays_BL if pad_left else ~stays_BL).int().argsort(dim=1, stable=True)
    order = order[:, order.shape[1] - longest :] if pad_left else order[:, :longest]
    index_BL = torch.where(stays_BL.gather(1, order), order, -1)
    padding = index_BL < 0

    old = _positions(real_BL) if position_ids is None else position_ids.expand_as(input_ids)
    if positions == "renumbered":
        old = old - _left_before(leaves_BL, subsegment_ids)
    return ShortPrompt(
        input_ids=input_ids.gather(1, order).masked_fill(padding, pad_id),
        attention_mask=(~padding).long(),
        position_ids=old.gather(1, order).masked_fill(padding, 0),
        index_BL=index_BL,
        lengths=lengths,
    )


def dropped_by_row(placeholders: list[int], windows: list[int], kept: list[int]) -> list[int]:
    """How many placeholders leave each row, from the windows of each video before and after pruning.

    Raises:
        ValueError: the rows' placeholders are not whole videos, in order.
    """
    ends = dict(zip(accumulate(windows), accumulate(w - k for w, k in zip(windows, kept, strict=True)), strict=True))
    ends[0] = 0
    dropped, before = [], 0
    for end in accumulate(placeholders):
        if end not in ends or sum(placeholders) != sum(windows):
            raise ValueError(
                f"The prompts hold {sum(placeholders)} placeholders (by row {placeholders}) but the videos have "
                f"{sum(windows)} windows (by video {windows}). Each video needs one placeholder a window, before "
                "pruning, all in one row."
            )
        dropped.append(ends[end] - before)
        before = ends[end]
    return dropped


def placeholder_places(input_ids: Tensor, placeholder_id: int, count: int) -> Tensor:
    """(count,) flat places of the placeholders of (B, L) prompts, in order; their number is known already."""
    return (input_ids != placeholder_id).flatten().int().argsort(stable=True)[:count]


def labelled_places(labels: Tensor, most: int) -> Tensor:
    """(B, most) places whose next token is labelled, in order; a row with fewer is filled up with others."""
    unlabelled_BL = (labels[:, 1:] == IGNORE).int()
    return unlabelled_BL.argsort(dim=1, stable=True)[:, :most]


def _positions(real_BL: Tensor) -> Tensor:
    return (real_BL.long().cumsum(1) - 1).clamp(min=0)


def _left_before(leaves_BL: Tensor, subsegment_ids: Tensor | None) -> Tensor:
    """How many tokens left before each token, within its own sample."""
    before = leaves_BL.long().cumsum(1)
    if subsegment_ids is None:
        return before
    sample = subsegment_ids // SAMPLE_STRIDE
    starts = torch.ones_like(sample, dtype=torch.bool)
    starts[:, 1:] = sample[:, 1:] != sample[:, :-1]
    at_start = torch.where(starts, before - leaves_BL.long(), 0).cummax(1).values
    return before - at_start
