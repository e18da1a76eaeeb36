"""Who sees whom in the language model."""

from __future__ import annotations

import torch
from torch import Tensor

from stts_lightning.molmo2.prompt import SAMPLE_STRIDE


def attention_mask_4d(
    attention_mask: Tensor,
    vision_BL: Tensor,
    subsegment_ids: Tensor,
    additive_dtype: torch.dtype | None = None,
) -> Tensor:
    """Causal, or both vision tokens of the same sample; never across samples or branches.

    With sub-segments as Molmo2 numbers them (a shared prefix above its branches, samples 100,000 apart) a
    query sees a key when ``(key <= query or both vision) and sub[query] <= sub[key]``: branches see prefix
    and themselves, samples see themselves.

    Args:
        attention_mask: (B, L), 0 at padding.
        vision_BL: True at vision tokens, frame markers included.
        additive_dtype: None for a boolean mask (SDPA), a dtype for an additive one (eager).

    Returns:
        (B, 1, L, L). Padding sees itself alone, so that no row is empty.
    """
    length = attention_mask.shape[1]
    sample = subsegment_ids // SAMPLE_STRIDE
    causal = torch.ones(length, length, dtype=torch.bool, device=attention_mask.device).tril()
    both_vision = vision_BL[:, :, None] & vision_BL[:, None, :] & (sample[:, :, None] == sample[:, None, :])
    descends = subsegment_ids[:, :, None] <= subsegment_ids[:, None, :]
    real = attention_mask.bool()
    allowed = (causal | both_vision) & descends & real[:, None, :] & real[:, :, None]
    allowed |= torch.eye(length, dtype=torch.bool, device=allowed.device)
    allowed = allowed[:, None]
    if additive_dtype is None:
        return allowed
    mask = torch.zeros(allowed.shape, dtype=additive_dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(additive_dtype).min)
