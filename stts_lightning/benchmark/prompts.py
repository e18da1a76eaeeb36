"""The texts in which benchmarks are asked, as Molmo2's evaluation puts them; frozen by tests."""

from __future__ import annotations

from collections.abc import Callable

from stts_lightning.benchmark.options import Choices
from stts_lightning.data.prompts import INSTRUCTION

ONLY_LETTER = "Please respond with only the letter of the correct answer."
BEST_OPTION = "Please directly give the best option:"
YES_OR_NO = "Please answer yes or no:"
ONLY_OPTION = "Only return the correct answer option."
VIDEO_MME_BEFORE = (
    "Select the best answer to the following multiple-choice question based on the video. "
    "Respond with only the letter (A, B, C, or D) of the correct option."
)
VIDEO_MME_AFTER = "The best answer is:"


def _lines(*parts: str) -> str:
    return "\n".join(parts)


def _styled(style: str) -> Callable[[Choices], str]:
    """Molmo2 was trained with the name of the style before questions that want a short answer."""
    return lambda choices: f"{style}: {choices.stored}"


FORMATS: dict[str, Callable[[Choices], str]] = {
    "letter_directly": lambda c: _lines(c.question, *c.lines, INSTRUCTION),
    "only_letter": lambda c: _lines(c.question, *c.lines, ONLY_LETTER),
    "video_mme": lambda c: _lines(VIDEO_MME_BEFORE, c.question, *c.lines, VIDEO_MME_AFTER),
    "verbatim": lambda c: c.stored,
    "best_option": lambda c: _lines(c.stored, BEST_OPTION),
    "video_yes_no": lambda c: _lines(f"video_short_answer: {c.stored}", YES_OR_NO),
    "only_option": lambda c: _lines(c.question, ONLY_OPTION, *c.lines),
    "how_many": lambda c: f"How many {c.stored} are there?",
    **{style: _styled(style) for style in ("vqa2", "text_vqa", "doc_qa", "info_qa", "chart_qa")},
}
