"""The pruned windows' placeholders leave the prompt, and everything that runs beside it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = -100  # transformers' label of a token without loss


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
    *,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    subsegment_ids: Tensor | None = None,
    positions: str = "renumbered",
    pad_id: int = 0,
    pad_left: bool | None = None,
) -> ShortPrompt:
    """Drop the placeholders of windows that left; frame markers and timestamps stay.

    Args:
        input_ids: (B, L), the placeholders of all rows in the order of the videos.
        keep_M: (M,) one flag a window of the batch.
        subsegment_ids: (B, L) ids of samples and branches (see `language.py`); positions restart with each
            sample, so a sample's gaps must not move its neighbour.
        pad_left: side of the padding; None keeps the side that ``attention_mask`` shows.

    Raises:
        ValueError: the prompt has another number of placeholders than the videos have windows.
    """
    placeholder_BL = input_ids == placeholder_id
    found = int(placeholder_BL.sum())
    if found != len(keep_M):
        raise ValueError(
            f"The prompts hold {found} placeholders (token {placeholder_id}) but the videos have {len(keep_M)} "
            "windows. Each video needs one placeholder a window, before pruning."
        )
    real_BL = torch.ones_like(placeholder_BL) if attention_mask is None else attention_mask.bool()
    leaves_BL = torch.zeros_like(placeholder_BL).masked_scatter(placeholder_BL, ~keep_M)
    stays_BL = real_BL & ~leaves_BL
    if pad_left is None:
        pad_left = bool((~real_BL[:, 0]).any())

    lengths = stays_BL.sum(1)
    longest = int(lengths.max())
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
        lengths=lengths.tolist(),
    )


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


# Molmo2's encoding of packed samples and message trees (its text preprocessor and packer).
SAMPLE_STRIDE = 100_000  # added once a sample
SHARED_PREFIX = 10_000  # of the tokens that all branches of a sample see; branch i has i
