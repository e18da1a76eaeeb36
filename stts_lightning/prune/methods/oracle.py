"""What nobody has outside of generated data: the truth."""

from __future__ import annotations

from torch import Tensor, nn

from stts_lightning.prune.registry import Host, register
from stts_lightning.prune.types import Scores, Windows


@register("oracle")
class Oracle(nn.Module):
    """Keeps the windows that show what the questions of the clip are about; of the others, the later ones."""

    def __init__(self, host: Host) -> None:
        super().__init__()

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        """
        Raises:
            ValueError: nobody knows what matters in these videos.
        """
        if windows.relevant_TW is None:
            raise ValueError(
                "prune.method=oracle needs the truth about every window, which the generated set has alone: "
                "data=generated, at its own frame rate."
            )
        return Scores(windows.relevant_TW.float())
