"""The paper's scorer, taught by the unpruned model: the reference for a scorer that has no teacher."""

from __future__ import annotations

from torch import Tensor

from stts_lightning.prune.listwise import listwise_loss
from stts_lightning.prune.methods.stts import STTSScorer
from stts_lightning.prune.registry import Host, register
from stts_lightning.prune.types import Scores, Windows
from stts_lightning.prune.windows import is_first_frame

TEACHERS = ("attention", "value_attention", "saliency")


@register("stts_distill")
class DistillScorer(STTSScorer):
    """Top-K of logits that learn, listwise over all windows but frame 0's, what the unpruned model makes of them.

    ``teacher`` says by what that is measured (`molmo2.teacher.window_use`). ``frozen``: learned in the scorer's
    warm-up, and left as it is from then on. Else the warm-up is the paper's, and every ``every``-th training step runs
    the unpruned model beside the pruned one.
    """

    def __init__(self, host: Host, teacher: str = "attention", frozen: bool = True, every: int = 4) -> None:
        super().__init__(host, with_aux_loss=False)
        if teacher not in TEACHERS or every < 1:
            raise ValueError(
                f"prune.options: teacher={teacher!r} is not one of {', '.join(TEACHERS)}, or every={every} is below 1."
            )
        self.teacher, self.frozen, self.every = teacher, frozen, every

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        return Scores(self.score(x_TND.detach(), windows)[0].detach())

    def taught_loss(self, x_TND: Tensor, windows: Windows, use_M: Tensor) -> Tensor:
        """The listwise loss against ``use_M``, one number a window."""
        logits_TW = self.score(x_TND, windows)[0]
        counted_T1 = ~is_first_frame(windows.frames_per_video, x_TND.device)[:, None]
        lengths = [frames * windows.windows_per_frame for frames in windows.frames_per_video]
        return listwise_loss(logits_TW.flatten(), use_M, counted_T1.expand_as(logits_TW).flatten(), lengths)
