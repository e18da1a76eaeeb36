"""Who sees whom in the language model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from stts_lightning.molmo2.prompt import SAMPLE_STRIDE


def attention_mask_4d(
    attention_mask: Tensor, vision_BL: Tensor, subsegment_ids: Tensor, implementation: str, dtype: torch.dtype
) -> Tensor | BlockMask:
    """Causal, or both vision tokens of the same sample; never across samples or branches.

    With sub-segments as Molmo2 numbers them (a shared prefix above its branches, samples 100,000 apart) a
    query sees a key when ``(key <= query or both vision) and sub[query] <= sub[key]``: branches see prefix
    and themselves, samples see themselves.

    Args:
        attention_mask: (B, L), 0 at padding.
        vision_BL: True at vision tokens, frame markers included.
        implementation: of the language model's attention.
        dtype: of the additive mask that ``eager`` takes.

    Returns:
        What ``implementation`` takes: (B, 1, L, L), boolean for ``sdpa`` and additive for ``eager``, or for
        ``flex_attention`` a mask of blocks, of which those without a visible key are never computed. Padding
        sees itself alone, so that no row is empty.
    """
    rows, length = attention_mask.shape
    device = attention_mask.device
    sees = _rule(attention_mask.bool(), vision_BL, subsegment_ids)
    if implementation == "flex_attention":
        return create_block_mask(sees, rows, None, length, length, device=device, _compile=device.type == "cuda")
    places = torch.arange(length, device=device)
    row_B11 = torch.arange(rows, device=device)[:, None, None]
    # The rule on indices that broadcast: `create_mask` would map it over each index in turn, and slowly.
    allowed = sees(row_B11, row_B11, places[:, None], places)[:, None]
    if implementation == "sdpa":
        return allowed
    mask = torch.zeros(allowed.shape, dtype=dtype, device=device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def _rule(real_BL: Tensor, vision_BL: Tensor, subsegment_ids: Tensor) -> Callable[..., Tensor]:
    sample_BL = subsegment_ids // SAMPLE_STRIDE

    def sees(b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        both_vision = vision_BL[b, query] & vision_BL[b, key] & (sample_BL[b, query] == sample_BL[b, key])
        descends = subsegment_ids[b, query] <= subsegment_ids[b, key]
        both_real = real_BL[b, query] & real_BL[b, key]
        return (((key <= query) | both_vision) & descends & both_real) | (query == key)

    return sees
