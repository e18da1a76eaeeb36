"""Several samples as one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stts_lightning.data.encode import Asked
from stts_lightning.molmo2.prompt import SAMPLE_STRIDE


def join_samples(samples: Sequence[Any]) -> tuple[dict[str, Tensor], list[Asked]]:
    """The tokens of the samples one after the other, and where in them each answer is predicted.

    Every sample keeps its positions, which begin at 0, and gets sub-segments of its own, `SAMPLE_STRIDE` apart: it sees
    itself alone.
    """
    tokens: dict[str, list[Tensor]] = {}
    asked: list[Asked] = []
    start = 0
    for number, sample in enumerate(samples):
        for name, values in sample.tokens.items():
            own = values + SAMPLE_STRIDE * number if name == "subsegment_ids" else values
            tokens.setdefault(name, []).append(own)
        asked += [question._replace(predicted_at=question.predicted_at + start) for question in sample.asked]
        start += len(sample.tokens["input_ids"])
    return {name: torch.cat(parts) for name, parts in tokens.items()}, asked
