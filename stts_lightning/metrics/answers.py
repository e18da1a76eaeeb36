"""From logits to an answer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from stts_lightning.data.encode import Asked


@dataclass(frozen=True)
class Prediction:
    """One question and what the model said; a line of predictions.jsonl."""

    id: str
    video: str
    category: str
    question: str
    options: tuple[str, ...]
    answer: int
    predicted: int
    letter_scores: tuple[float, ...]

    @property
    def correct(self) -> bool:
        return self.answer == self.predicted

    def row(self) -> dict[str, Any]:
        return {**asdict(self), "correct": self.correct}


def read_answers(
    logits: Tensor, token_index: Tensor | None, asked: list[list[Asked]], videos: list[str]
) -> list[Prediction]:
    """The option whose letter is likeliest where the answer begins.

    Args:
        logits: (B, L', vocabulary) of the shortened prompts.
        token_index: (B, L') place of each token in the prompt as it was given; None if nothing left.
    """
    predictions = []
    for row, (questions, video) in enumerate(zip(asked, videos, strict=True)):
        for question, predicted_at, letter_ids in questions:
            place = predicted_at
            if token_index is not None:
                place = int((token_index[row] == predicted_at).nonzero())
            scores = torch.log_softmax(logits[row, place, letter_ids].float(), dim=-1)
            predictions.append(
                Prediction(
                    id=question.id,
                    video=video,
                    category=question.category,
                    question=question.text,
                    options=question.options,
                    answer=question.answer,
                    predicted=int(scores.argmax()),
                    letter_scores=tuple(round(s, 5) for s in scores.tolist()),
                )
            )
    return predictions
