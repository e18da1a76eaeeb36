"""Options and right answers in the ways that benchmarks store them."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from stts_lightning.data.prompts import LETTERS

LABEL = re.compile(r"^\s*\(?([A-Z])[).:]\s*(.*)$", re.DOTALL)  # "A. x", "(A) x", "A: x"
IMAGE = re.compile(r"<image>")


class Choices(NamedTuple):
    """``question`` without its options; ``lines`` are the options as a prompt prints them, ``texts`` without label;
    ``stored`` is the question as the file has it."""

    question: str
    texts: tuple[str, ...]
    lines: tuple[str, ...]
    stored: str


def read_choices(style: str, question: str, options: Sequence[Any]) -> Choices:
    """Options stored in one of `declare.OPTIONS`; ``options`` are the cells of the declared columns.

    Raises:
        ValueError: the cells do not hold what the style says.
    """
    if style == "none":
        return Choices(question, (), (), question)
    if style == "yes_no":
        return Choices(question, ("yes", "no"), (), question)
    if style == "in_question":
        stem, texts = _split_question(question)
        return _lettered(stem, texts, question)
    if style == "captions":
        stem, *lines = question.split("\n")
        return _lettered(stem, [line.split(":", 1)[-1].strip() for line in lines], question)
    texts = _texts(style, options)
    if style == "labelled":
        return Choices(question, tuple(map(strip_label, texts)), tuple(texts), question)
    if style == "numbered":
        numbered = _number_images([question, *texts])
        return _lettered(numbered[0], numbered[1:], question)
    return _lettered(question, texts, question)


def _texts(style: str, options: Sequence[Any]) -> list[str]:
    if len(options) == 1 and style == "lines":
        return [strip_label(line) for line in str(options[0]).splitlines() if LABEL.match(line)]
    if len(options) == 1:
        cell = options[0]
        if style == "literal":
            cell = ast.literal_eval(cell)
        if cell is None:
            return []
        if not isinstance(cell, list | tuple):
            raise ValueError(f"options {cell!r} are not a list.")
        options = cell
    return [str(option) for option in options if option is not None]


def _lettered(question: str, texts: Sequence[str], stored: str) -> Choices:
    lines = tuple(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    return Choices(question, tuple(texts), lines, stored)


def strip_label(line: str) -> str:
    found = LABEL.match(line)
    return (found.group(2) if found else line).strip()


def _split_question(question: str) -> tuple[str, list[str]]:
    """The lines before "A.", and the options, which must be lettered in order; further lines belong to an option,
    but not an instruction how to answer."""
    stem: list[str] = []
    texts: list[str] = []
    for line in question.split("\n"):
        found = LABEL.match(line)
        if found and len(texts) < len(LETTERS) and found.group(1) == LETTERS[len(texts)]:
            texts.append(found.group(2).strip())
        elif not texts:
            stem.append(line)
        elif line.strip() and not line.startswith("Please answer"):
            texts[-1] += "\n" + line
    return "\n".join(stem), texts


def _number_images(texts: list[str]) -> list[str]:
    """ "<image>" becomes "Image 1", "Image 2", .. through the question and its options."""
    count = 0

    def number(_: Any) -> str:
        nonlocal count
        count += 1
        return f"Image {count}"

    return [IMAGE.sub(number, text) for text in texts]


class Right(NamedTuple):
    """The right answer: an option by its number, or texts of which each is right."""

    option: int | None = None
    texts: tuple[str, ...] = ()


def read_answer(style: str, value: Any, choices: Choices) -> Right:
    """The right answer, stored in one of `declare.ANSWERS`.

    Raises:
        ValueError: it is not one of the options.
    """
    if style == "auto":
        style = "letter" if choices.texts else "free"
    if style == "free":
        return Right(texts=_free(value))
    if style == "list":
        return Right(texts=tuple(str(text) for text in value))
    if style == "votes":  # of ten people; a vote is a text or an object that has one
        return Right(texts=tuple(str(v["answer"]) if isinstance(v, dict) else str(v) for v in value))
    return Right(option=_option_index(style, value, choices))


def _free(value: Any) -> tuple[str, ...]:
    """One text, or several that are written as a list: "['24/7', '3.429']" (MMMU)."""
    if isinstance(value, str) and value.startswith("['"):
        return tuple(str(text) for text in ast.literal_eval(value))
    return (str(int(value)) if isinstance(value, float) and value.is_integer() else str(value),)


def _option_index(style: str, value: Any, choices: Choices) -> int:
    text = str(value).strip()
    if style == "index":
        index = int(value)
    elif style in ("letter", "any_letter"):
        index = LETTERS.find(text.lstrip("(")[:1].upper()) if text else -1
    elif style == "text":
        index = choices.texts.index(str(value)) if str(value) in choices.texts else -1
    elif style == "yes_no":
        index = choices.texts.index(text.lower()) if text.lower() in choices.texts else -1
    else:
        lines = choices.stored.split("\n")[1:]
        index = lines.index(str(value)) if str(value) in lines else -1
    if index < 0 or (index >= len(choices.texts) and style != "any_letter"):
        raise ValueError(f"the answer {value!r} is none of the {len(choices.texts)} options.")
    return index
