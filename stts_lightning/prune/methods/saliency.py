"""The paper's scorer, taught by what the model made of the windows that it kept (`experiments/saliency/`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stts_lightning.prune.methods.stts import STTSScorer
from stts_lightning.prune.registry import Host, register
from stts_lightning.prune.types import Scores, Windows


@register("stts_saliency")
class SaliencyScorer(STTSScorer):
    """Top-K of the logits, in training of logits + eta x Gumbel noise; the kept windows' logits learn listwise from
    |dL/df| |f| of their vision tokens (`listwise.learn_from_use`), which reaches the scorer alone.

    ``noise`` is eta at the start, falling in a straight line to ``noise_floor`` over the first ``noise_share`` of the
    training. ``bias`` and ``with_aux_loss`` add the paper's own two paths.
    """

    def __init__(
        self,
        host: Host,
        noise: float = 1.0,
        noise_floor: float = 0.05,
        noise_share: float = 0.25,
        bias: bool = False,
        with_aux_loss: bool = False,
    ) -> None:
        super().__init__(host, with_aux_loss)
        if not 0 <= noise_floor <= noise or not 0 < noise_share <= 1:
            raise ValueError(
                f"prune.options: noise={noise}, noise_floor={noise_floor}, noise_share={noise_share}; the noise falls "
                "from noise to noise_floor, 0 or more, over a share of the training that is above 0 and at most 1."
            )
        self.noise, self.noise_floor, self.noise_share = noise, noise_floor, noise_share
        self.bias = bias
        self.eta = noise

    def set_progress(self, share: float) -> None:
        """Called before every step with the share of the training that is over, 0 to 1."""
        left = max(1 - share / self.noise_share, 0.0)
        self.eta = self.noise_floor + (self.noise - self.noise_floor) * left

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        """Logits as scores: a sigmoid would make equals of the high ones."""
        logits_TW, aux_loss = self.score(x_TND.detach(), windows, self.with_aux_loss)
        ranked_TW = logits_TW.detach()
        if self.training and self.eta > 0:
            exponential_TW = torch.empty_like(ranked_TW).exponential_()
            ranked_TW = ranked_TW - self.eta * exponential_TW.clamp(min=1e-20).log()  # -log of it is Gumbel
        return Scores(ranked_TW, F.logsigmoid(logits_TW) if self.bias else None, aux_loss, logits_TW)
