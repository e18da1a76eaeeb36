"""The two presets: what the paper's text says, and what the authors' released vision code does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Preset:
    """Where the paper's text and the authors' released vision code part ways."""

    mlp_widths: Callable[[int], tuple[int, int]]
    activation: Callable[[Tensor], Tensor]
    rescale_bias: bool  # to [e^-2, 1] along each row of the frame
    flattened_target: bool  # similarity of whole flattened windows, with gradient
    count_first_frame: bool  # in the auxiliary loss's denominator
    aux_weight: float
    refill_lone_frames: bool
    pooler_std: float | None  # of the initial weights; None keeps the variance at any width


PRESETS = {
    "paper": Preset(lambda d: (d, d // 2), F.gelu, False, False, True, 1.0, False, None),
    # 4304 at width 1152: the released code gives its MLP the ViT's own hidden width.
    "released": Preset(lambda d: (round(d * 4304 / 1152),) * 2, F.silu, True, True, False, 0.5, True, 0.02),
}
