"""Neighbouring-frame cosine similarity (paper 3.4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def temporal_change(features_TWD: Tensor, first_T: Tensor) -> Tensor:
    """1 - cosine similarity of each window with the same window one frame earlier, (T, W).

    Frame 0 of a video has no predecessor; its value is 1, the change of something wholly new. Only the
    neighbours are compared, never all pairs of windows.
    """
    features_TWD = F.normalize(features_TWD.float(), dim=-1)
    similarity_TW = (features_TWD * features_TWD.roll(1, dims=0)).sum(-1)
    return 1 - similarity_TW.masked_fill(first_T[:, None], 0.0)
