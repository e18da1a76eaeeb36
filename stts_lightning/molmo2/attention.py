"""The attention of the vision tower's blocks, as transformers looks it up by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.molmo2.modeling_molmo2 import eager_attention_forward

from stts_lightning.prune.bias import append_key_bias
from stts_lightning.prune.flat import Segments, segment_attention


def attention_dtype(x: Tensor) -> torch.dtype:
    """What queries and keys made of ``x`` are in: autocast keeps the residual stream in float32 and not them."""
    device = x.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return x.dtype


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    stock: Callable[..., tuple[Tensor, Tensor | None]],
    scaling: float,
    segments: Segments | None = None,
    key_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Within ``segments`` where they are given, else as ``stock`` does it; ``key_bias`` (T, N) is added to what every
    query gives a key."""
    if key_bias is not None:
        dim = query.shape[-1]
        query, key, value = append_key_bias(query, key, value, key_bias, scaling)
        out, weights = stock(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        return out[..., :dim], weights
    if segments is None:
        return stock(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    q_SHD, k_SHD, v_SHD = (x[0].transpose(0, 1) for x in (query, key, value))  # as the projections left them
    return segment_attention(q_SHD, k_SHD, v_SHD, segments, scaling)[None], None


PREFIX = "stts_"  # of the names that stand beside transformers' own
for name, stock in (("sdpa", sdpa_attention_forward), ("eager", eager_attention_forward)):
    ALL_ATTENTION_FUNCTIONS.register(PREFIX + name, functools.partial(attention_forward, stock=stock))
