"""The weighted loss of labelled tokens, with logits at their places alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stts_lightning.molmo2.prompt import IGNORE, labelled_places

LOSS_CHUNK = 2048  # labels whose logits are in float32 at a time


def weighted_loss(
    lm_head: nn.Module, hidden_BLD: Tensor, labels: Tensor, weights: Tensor, most: int, divisor: Tensor | None = None
) -> Tensor:
    """Next-token cross-entropy, sum of weight * loss over ``divisor`` or the sum of weights, with logits at labelled
    places alone.

    ``most`` is the most labels that a row predicts, as counted on the host; the (B, L) ``labels`` are of the
    shortened prompt and may hold fewer.
    """
    places = labelled_places(labels, most)
    targets, weights = labels[:, 1:].gather(1, places), weights[:, 1:].gather(1, places).float()
    logits = lm_head(hidden_BLD.take_along_dim(places[..., None], dim=1)).flatten(0, 1)
    losses = [
        checkpoint(_cross_entropy, *chunk, use_reentrant=False)  # float32 logits of one chunk live at a time
        for chunk in zip(logits.split(LOSS_CHUNK), targets.flatten().split(LOSS_CHUNK), strict=True)
    ]
    weights = (weights * (targets != IGNORE)).flatten()
    return (torch.cat(losses) * weights).sum() / (weights.sum() if divisor is None else divisor).clamp(min=1e-9)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, ignore_index=IGNORE, reduction="none")
