"""The connector on windows that are gathered already."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.molmo2.modeling_molmo2 import Molmo2Adapter

from stts_lightning.prune.windows import mean_pool


class WindowAdapter(Molmo2Adapter):
    """A stock Molmo2Adapter that also takes windows. Made by `apply_stts`, never built.

    The stock forward looks for windows without a patch, which waits for the device; kept windows have some.
    """

    def forward(self, image_features: Tensor, pooled_patches_idx: Tensor | None = None, **kwargs: Any) -> Any:
        """As the stock one's; without ``pooled_patches_idx`` for windows: ``image_features`` (K, P, D') with
        zeros where ``valid_KP`` is False, which is None where all patches are real."""
        if pooled_patches_idx is not None:
            return super().forward(image_features, pooled_patches_idx, **kwargs)
        valid_KP = kwargs["valid_KP"]
        query = mean_pool(image_features, valid_KP)[:, None]
        mask = None if valid_KP is None else self._mask(valid_KP, image_features)
        pooled, _ = self.image_pooling_2d(query, image_features, attention_mask=mask)
        return BaseModelOutput(last_hidden_state=self.image_projector(pooled.squeeze(1)))

    def _mask(self, valid_KP: Tensor, x: Tensor) -> Tensor:
        valid = valid_KP[:, None, None, :]
        if self.config._attn_implementation == "sdpa":
            return valid
        return x.new_zeros(valid.shape).masked_fill(~valid, -float("inf"))
