"""How much the unpruned model makes of every window: what `stts_distill` learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from stts_lightning.molmo2.patch import VIDEO_INPUTS, PruneHandle
from stts_lightning.molmo2.tower import VideoFeatures

WATCHED = "stts_watched"  # the language model's attention while it is watched


@dataclass
class Watch:
    """Adds up, over layers and heads, what the queries at ``places_BQ`` give every token.

    ``real_BQ`` is 0 at places that fill up a row. ``by_value``: attention times the norm of the value that it fetches,
    which tells a token that is used from one that is merely looked at.
    """

    places_BQ: Tensor
    real_BQ: Tensor
    by_value: bool
    mass_BL: list[Tensor] = field(default_factory=list)

    def see(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float) -> None:
        """(B, H, L, D) each, with fewer heads in keys and values; ``mask`` (B, 1, L, L) boolean or additive."""
        rows_B1Q1 = self.places_BQ[:, None, :, None]
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
        asked_BHQD = query.take_along_dim(rows_B1Q1, dim=2)
        logits_BHQL = (asked_BHQD @ key.transpose(2, 3)).float() * scaling
        mask_B1QL = mask.take_along_dim(rows_B1Q1, dim=2)
        if mask.dtype == torch.bool:
            logits_BHQL = logits_BHQL.masked_fill(~mask_B1QL, -torch.inf)
        else:
            logits_BHQL = logits_BHQL + mask_B1QL
        weights_BHQL = logits_BHQL.softmax(-1) * self.real_BQ[:, None, :, None]
        if self.by_value:
            weights_BHQL = weights_BHQL * value.float().norm(dim=-1)[:, :, None]
        self.mass_BL.append(weights_BHQL.sum((1, 2)))


def _watched_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, *, watch: Watch, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    watch.see(query, key, value, attention_mask, kwargs["scaling"])
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


ALL_ATTENTION_FUNCTIONS.register(WATCHED, _watched_attention)


def window_use(handle: PruneHandle, inputs: dict[str, Any], predicted_at: list[list[int]], kind: str) -> Tensor:
    """(M,) what the unpruned model makes of each window of the batch; its proportions within a video count alone.

    Args:
        inputs: the model's, unpruned, with ``labels``, ``loss_weights`` and ``subsegment_ids``.
        predicted_at: of each sequence, the places at which its questions' answers are predicted.
        kind: `attention`, what those places give the window, over all layers and heads; `value_attention`, that
            times the norm of what is fetched; `saliency`, |dL/df| |f| of its vision token.
    """
    model = handle.model
    videos = {name: inputs[name] for name in VIDEO_INPUTS if name in inputs}
    texts = {name: value for name, value in inputs.items() if name not in videos}
    with torch.no_grad(), _unpruned(handle):
        features = model.model.get_video_features(**videos)
    tokens_MD = torch.cat(features.pooler_output)
    if kind == "saliency":
        leaf_MD = tokens_MD.detach().requires_grad_()
        with torch.enable_grad():
            seen = {"video": VideoFeatures(pooler_output=(leaf_MD,))}
            loss = model(**texts, mm_encoder_outputs=seen, use_cache=False).loss
            (grad_MD,) = torch.autograd.grad(loss, leaf_MD)
        return grad_MD.float().norm(dim=-1) * tokens_MD.float().norm(dim=-1)
    device = tokens_MD.device
    most = max(map(len, predicted_at))
    places = torch.tensor([[*row, *[0] * (most - len(row))] for row in predicted_at])
    real = torch.tensor([[1.0] * len(row) + [0.0] * (most - len(row)) for row in predicted_at])
    watch = Watch(places.to(device), real.to(device), kind == "value_attention")
    with torch.no_grad(), _watched(model.model.language_model.config):
        model(**texts, mm_encoder_outputs={"video": features}, use_cache=False, watch=watch)
    return torch.stack(watch.mass_BL).sum(0)[texts["input_ids"] == model.config.image_token_id]


@contextmanager
def _unpruned(handle: PruneHandle) -> Iterator[None]:
    percent = handle.percent
    handle.percent = 0
    try:
        yield
    finally:
        handle.percent = percent


@contextmanager
def _watched(config: Any) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = WATCHED
    try:
        yield
    finally:
        config._attn_implementation = before
