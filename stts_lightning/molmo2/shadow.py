"""A step on `meta` tensors, which have shapes and no values, as a GPU would run it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from stts_lightning.molmo2 import patch, vision
from stts_lightning.molmo2.attention import PREFIX, attention_forward
from stts_lightning.molmo2.patch import PrunedMolmo2

FUSED = "fused_shadow"


def fused_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Whatever the mask, one kernel that keeps query, key, value, its result and a number a row, as the fused kernels
    of a GPU do, FlexAttention among them. `F.scaled_dot_product_attention` would write out all pairs on `meta`."""
    if value.dtype != query.dtype:  # norms give float32 under autocast, and the kernels take one type
        query, key = query.to(value.dtype), key.to(value.dtype)
    if query.device.type == "meta":
        out = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, scale=scaling)[0]
    else:
        out = F.scaled_dot_product_attention(query, key, value, scale=scaling, enable_gqa=key.shape[1] < query.shape[1])
    return out.transpose(1, 2), None


ALL_ATTENTION_FUNCTIONS.register(FUSED, fused_attention)
ALL_ATTENTION_FUNCTIONS.register(PREFIX + FUSED, functools.partial(attention_forward, stock=fused_attention))


def _mask_of_blocks(attention_mask: Tensor, *_: Any) -> Tensor:
    """(B, 1, L, L) without memory: a mask of blocks has a number for 128 x 128 pairs."""
    rows, length = attention_mask.shape
    return torch.ones((), dtype=torch.bool, device=attention_mask.device).expand(rows, 1, length, length)


@contextmanager
def as_on_a_gpu(model: PrunedMolmo2) -> Iterator[None]:
    """Attention in fused kernels, in all parts of a model that `apply_stts` has pruned, and in bfloat16.

    What a step computes in here is wrong, as masks are not looked at; the shapes and what is kept for the backward
    pass are right.
    """
    inner = model.model
    parts = {inner.vision_tower: PREFIX + FUSED, inner.multi_modal_projector: FUSED, inner.language_model: FUSED}
    with ExitStack() as stack:
        for part, name in parts.items():
            _swap(stack, part.config, "_attn_implementation", name)
        _swap(stack, patch, "attention_mask_4d", _mask_of_blocks)
        _swap(stack, vision, "attention_dtype", lambda x: torch.bfloat16)  # it asks autocast, which `meta` has not
        yield


def _swap(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
