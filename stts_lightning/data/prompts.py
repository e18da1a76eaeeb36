"""Molmo2's prompt texts, frozen."""

from __future__ import annotations

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BOS = "<|im_end|>"  # Molmo2 starts with its end-of-text token: Qwen has none for the beginning
EOS = "<|im_end|>"
FRAME_START, FRAME_END, PLACEHOLDER = "<frame_start>", "<frame_end>", "<im_patch>"
IMAGE_START, LOW_RES_START, IMAGE_END, COLUMN = "<im_start>", "<low_res_im_start>", "<im_end>", "<im_col>"
VISION = (PLACEHOLDER, COLUMN, IMAGE_START, LOW_RES_START, FRAME_START, IMAGE_END, FRAME_END, "<im_low>")
INSTRUCTION = "Answer with the option's letter from the given choices directly."


def frame_prefix(seconds: float, first: bool) -> str:
    """The text before a frame's tokens: its time, with a space between frames."""
    return f"{'' if first else ' '}{seconds:.1f} "


def image_prefix(number: int, of: int) -> str:
    """The text before an image's tokens: nothing, or its number from 1 where there are several."""
    return f"Image {number}" if of > 1 else ""


def question_text(question: str, options: list[str]) -> str:
    """A multiple-choice question as Molmo2 puts NextQA, PerceptionTest, MLVU and LongVideoBench."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines, INSTRUCTION])


def user_turn(text: str) -> str:
    """The user's message and the header of the answer."""
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
