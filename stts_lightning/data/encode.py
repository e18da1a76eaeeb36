"""From a decoded clip and its questions to the model's tensors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stts_lightning.config import ImageConfig
from stts_lightning.data.prompts import (
    BOS,
    COLUMN,
    EOS,
    FRAME_END,
    FRAME_START,
    IMAGE_END,
    IMAGE_START,
    LETTERS,
    LOW_RES_START,
    PLACEHOLDER,
    VISION,
    frame_prefix,
    image_prefix,
    question_text,
    user_turn,
)
from stts_lightning.data.records import Question
from stts_lightning.data.scene import DENSE_CLASSES
from stts_lightning.molmo2.prompt import IGNORE, SHARED_PREFIX


class Asked(NamedTuple):
    """Where a question's answer is predicted in the unpruned sequence, and among which letters."""

    question: Question
    predicted_at: int
    letter_ids: list[int]


class Sample(NamedTuple):
    """One clip with its questions as branches of one sequence.

    ``frames`` (F, S, S, 3) uint8 as decoded; the sequences are (L,). ``asked`` and ``source`` say what was
    asked of what; ``skipped`` names clips that could not be read in this one's place.
    """

    frames: Tensor
    grid: tuple[int, int, int]
    tokens: dict[str, Tensor]
    asked: list[Asked]
    source: str
    times: np.ndarray
    decoder: str
    skipped: list[Any]
    contents: Tensor | None = None  # (F, W) indices into `scene.CONTENTS`, where they are known


class ImageSample(NamedTuple):
    """One picture or several with their questions, as `Sample` has them of a clip.

    ``crops`` (C, S, S, 3) uint8 of all pictures; ``tables`` and ``grids`` by picture (see `images.Crops`).
    """

    crops: Tensor
    tables: list[Tensor]
    grids: list[tuple[int, int, int, int]]
    num_crops: list[int]
    tokens: dict[str, Tensor]
    asked: list[Asked]
    source: str
    skipped: list[Any]


class TextSample(NamedTuple):
    """A question with nothing to look at, as `Sample` has them of a clip."""

    tokens: dict[str, Tensor]
    asked: list[Asked]
    source: str
    skipped: list[Any]


KNOWN_TEXTS = 100_000  # whose tokens are remembered; clips share their timestamps, and often their questions


class Encoder:
    """Builds sequences: BOS, timed frames or pictures, then every question as a branch that is blind to the others."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        window_rows: int,
        max_text_tokens: int,
        dense_weight: float = 0.0,
    ) -> None:
        self.tokenizer = tokenizer
        self.window_rows = window_rows
        self.max_text_tokens = max_text_tokens
        self.dense_weight = dense_weight
        self._known: dict[str, list[int]] = {}
        self.letter_ids = [self._single(letter) for letter in LETTERS]
        self.vision_ids = torch.tensor([self._single(token) for token in VISION])
        self.placeholder_id = self._single(PLACEHOLDER)
        self.dense_ids = [self._single(name) for name in DENSE_CLASSES] if dense_weight > 0 else []

    def _single(self, text: str) -> int:
        ids = self._ids(text)
        if len(ids) != 1:
            raise ValueError(f"The tokenizer splits {text!r} into {len(ids)} tokens; one is needed.")
        return ids[0]

    def _ids(self, text: str) -> list[int]:
        """A new list; the tokenizer's own call costs as much as a clip from the cache."""
        if text not in self._known:
            if len(self._known) >= KNOWN_TEXTS:
                self._known.clear()
            self._known[text] = self.tokenizer(text, add_special_tokens=False).input_ids
        return [*self._known[text]]

    def prefix(self, times: np.ndarray) -> list[int]:
        """BOS and all frames, each piece of text tokenised by itself as Molmo2 does."""
        windows = [self.placeholder_id] * self.window_rows * self.window_rows
        start, end = self._single(FRAME_START), self._single(FRAME_END)
        ids = self._ids(BOS)
        for i, seconds in enumerate(times):
            ids += [*self._ids(frame_prefix(float(seconds), first=i == 0)), start, *windows, end]
        return ids

    def image_prefix(self, grids: list[tuple[int, int, int, int]], settings: ImageConfig) -> list[int]:
        """BOS and all pictures, each as a whole and then at its higher resolution, row by row."""
        starts, end, column = (LOW_RES_START, IMAGE_START), self._single(IMAGE_END), self._single(COLUMN)
        columns = (settings.low_res_column_tokens, settings.column_tokens)
        ids = self._ids(BOS)
        for number, grid in enumerate(grids, start=1):
            ids += self._ids(image_prefix(number, of=len(grids)))
            for view in (0, 1):
                rows, cols = grid[2 * view : 2 * view + 2]
                row = [self.placeholder_id] * cols + [column] * columns[view]
                ids += [self._single(starts[view]), *row * rows, end]
        return ids

    def _branch(self, question: Question) -> tuple[list[int], list[int]]:
        prompt = self._ids(user_turn(question_text(question.text, list(question.options))))
        return prompt, [self.letter_ids[question.answer], *self._ids(EOS)]

    def groups(self, questions: tuple[Question, ...], at_most: int) -> list[tuple[Question, ...]]:
        """The questions of a clip in order, cut so that each group fits one sequence.

        Raises:
            ValueError: one question alone is longer than ``max_text_tokens``; names it.
        """
        groups: list[list[Question]] = [[]]
        room = self.max_text_tokens
        for question in questions:
            prompt, answer = self._branch(question)
            length = len(prompt) + len(answer)
            if length > self.max_text_tokens:
                raise ValueError(
                    f"question {question.id} is {length} tokens long, more than data.max_text_tokens="
                    f"{self.max_text_tokens}. Raise it or shorten the question."
                )
            if length > room or len(groups[-1]) == at_most:
                groups.append([])
                room = self.max_text_tokens
            groups[-1].append(question)
            room -= length
        return [tuple(group) for group in groups]

    def encode(
        self, times: np.ndarray, questions: tuple[Question, ...], dense: Any = None
    ) -> tuple[dict[str, Tensor], list[Asked]]:
        """The sequence of one clip, and where each answer is predicted."""
        tokens, asked = self.branches(self.prefix(times), questions)
        if dense is not None and self.dense_weight > 0:
            self._label_windows(tokens, dense)
        return tokens, asked

    def encode_images(
        self, grids: list[tuple[int, int, int, int]], settings: ImageConfig, questions: tuple[Question, ...]
    ) -> tuple[dict[str, Tensor], list[Asked]]:
        """The sequence of one picture or several, as `encode` gives it of a clip."""
        return self.branches(self.image_prefix(grids, settings), questions)

    def encode_text(self, questions: tuple[Question, ...]) -> tuple[dict[str, Tensor], list[Asked]]:
        """The sequence of a question with nothing to look at."""
        return self.branches(self._ids(BOS), questions)

    def branches(self, prefix: list[int], questions: tuple[Question, ...]) -> tuple[dict[str, Tensor], list[Asked]]:
        """The questions after what they share: each starts at the same position and sees itself and the prefix.

        An answer of n tokens weighs 2 / sqrt(n), and among M > 1 of them 1 / sqrt(M) of that, as Molmo2 has it: a long
        answer counts more than a short one and less than its tokens, and so does a clip with many questions. The end
        token counts in n where there is one question.
        """
        ids, labels, weights = list(prefix), [IGNORE] * len(prefix), [0.0] * len(prefix)
        positions, subsegments, asked = list(range(len(prefix))), [SHARED_PREFIX] * len(prefix), []
        for branch, question in enumerate(questions):
            prompt, answer = self._branch(question)
            letters = self.letter_ids[: len(question.options)]
            asked.append(Asked(question, len(ids) + len(prompt) - 1, letters))
            length = len(prompt) + len(answer)
            ids += prompt + answer
            labels += [IGNORE] * len(prompt) + answer
            weights += [0.0] * len(prompt) + [_weight(answer, len(questions))] * len(answer)
            positions += range(len(prefix), len(prefix) + length)
            subsegments += [branch] * length
        input_ids = torch.tensor(ids)
        tokens = {
            "input_ids": input_ids,
            "labels": torch.tensor(labels),
            "loss_weights": torch.tensor(weights),
            "mm_token_type_ids": torch.isin(input_ids, self.vision_ids).long(),
            "position_ids": torch.tensor(positions),
            "subsegment_ids": torch.tensor(subsegments),
        }
        return tokens, asked

    def _label_windows(self, tokens: dict[str, Tensor], dense: Any) -> None:
        """Ask every vision token what it shows: labels one place to the right, as the loss shifts them."""
        places = (tokens["input_ids"] == self.placeholder_id).nonzero().flatten() + 1
        classes = torch.tensor(dense).flatten()
        tokens["labels"][places] = torch.tensor(self.dense_ids)[classes]
        share = self.dense_weight * float(tokens["loss_weights"].sum()) / len(places)
        tokens["loss_weights"][places] = share


def _weight(answer: list[int], questions: int) -> float:
    """Of each token of an answer, the end token included."""
    counted = len(answer) - (questions > 1)
    return 2 / math.sqrt(counted * questions)
