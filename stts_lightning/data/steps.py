"""The micro-batches of an optimizer step know of each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from stts_lightning.data.stream import PackedBatches


class StepBatches:
    """Batches as ``loader`` brings them, ``accumulate`` of them at a time.

    Each gets ``step_totals``, the loss weight and the number of videos of all of them, so that an answer, and a video,
    weighs the same in whichever of them it stands.
    """

    def __init__(self, loader: DataLoader | PackedBatches, accumulate: int) -> None:
        self.loader, self.accumulate = loader, accumulate

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        waiting: list[dict[str, Any]] = []
        for batch in self.loader:
            waiting.append(batch)
            if len(waiting) == self.accumulate:
                totals = [sum(one[name] for one in waiting) for name in ("loss_weight", "num_videos")]
                for one in waiting:
                    yield {**one, "step_totals": totals}
                waiting = []
