"""What a learned scorer is compared with, without a signal of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stts_lightning.prune.registry import Host, register
from stts_lightning.prune.types import Scores, Windows


@register("random")
class RandomScorer(nn.Module):
    """Uniform noise: new in every training step, the same for a given frame count in evaluation."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.seed = host.seed

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        shape = (windows.windows_per_frame,)
        if self.training:
            return Scores(torch.rand(len(x_TND), *shape, device=x_TND.device))
        # One generator a video, so that a video's mask does not depend on its neighbours in the batch.
        parts = []
        for frames in windows.frames_per_video:
            generator = torch.Generator().manual_seed(self.seed)
            parts.append(torch.rand(frames, *shape, generator=generator))
        return Scores(torch.cat(parts).to(x_TND.device))


@register("none")
@register("text_only")
class ConstantScorer(nn.Module):
    """Every window is worth the same: k = 0 keeps all, k = 100 none (paper 5.5)."""

    def __init__(self, host: Host) -> None:
        super().__init__()

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        return Scores(torch.ones(len(x_TND), windows.windows_per_frame, device=x_TND.device))


@register("fewer_frames")
class FewerFrames(nn.Module):
    """Whole frames, evenly spread from the first to the last, as many as the budget pays for.

    The budget is kept to the window: what is left of it after whole frames goes to a part of one more. A frame that
    leaves keeps its time in the prompt, as it does with every method.
    """

    def __init__(self, host: Host) -> None:
        super().__init__()

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        parts = []
        for frames, budget in zip(windows.frames_per_video, windows.budget(), strict=True):
            count = max(1, -(-budget // windows.windows_per_frame))
            chosen = torch.linspace(0, frames - 1, count).round().long() if count > 1 else torch.zeros(1).long()
            # Of equal scores the earlier leaves first: the part that is missing is missing from the second frame.
            parts.append(torch.zeros(frames).index_fill(0, chosen, 1.0))
        scores_T = torch.cat(parts).to(x_TND.device, non_blocking=True)
        return Scores(scores_T[:, None].expand(-1, windows.windows_per_frame))
