"""From what a model wrote to its answer, by the rule of each benchmark."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from torchmetrics.functional.text import edit_distance

from stts_lightning.benchmark.items import Item
from stts_lightning.data.prompts import LETTERS

PHRASES = (
    "The best answer is", "The correct answer is", "The answer is", "The answer",
    "The best option is", "The correct option is", "Best answer:", "Best option:",
)  # fmt: skip
SHORT = 10  # words; a longer answer must hold a letter
SENTENCE = 5  # words; an answer that is longer may name the option by its text
NUMBER_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
]  # fmt: skip


class Extracted(NamedTuple):
    """``choice`` indexes the options, or ``text`` is a free answer. ``parsed`` is False where the rule found
    nothing; then ``choice`` is a guess or None, and ``counted`` says whether the question enters the accuracy."""

    choice: int | None = None
    text: str = ""
    parsed: bool = True
    counted: bool = True


Rule = Callable[[str, Item, int], Extracted]  # the answer, what was asked, the seed of guesses


def guess(item: Item, seed: int) -> int:
    """A uniform guess that follows from the seed and the question alone."""
    return random.Random(f"{seed} {item.id}").randrange(len(item.options))


def em_start(text: str, item: Item, seed: int) -> Extracted:
    """The answer begins with the letter."""
    return _letter(text.strip()[:1].upper(), item)


def first_letter(text: str, item: Item, seed: int) -> Extracted:
    """PerceptionTest: the first A to D that stands alone; without one the answer is wrong."""
    found = re.search(r"\b[A-D]\b", text)
    return _letter(found.group() if found else "", item)


def long_video_bench(text: str, item: Item, seed: int) -> Extracted:
    """The first A to E anywhere, once phrases around it are gone; without one a guess."""
    found = _first_of("ABCDE", text, item)
    return found if found.parsed else Extracted(guess(item, seed), parsed=False)


def video_mme(text: str, item: Item, seed: int) -> Extracted:
    """The first A to D anywhere, once phrases around it are gone. Without one Molmo2's evaluation leaves the question
    out of the denominator, and so do we."""
    found = _first_of("ABCD", text, item)
    return found if found.parsed else Extracted(parsed=False, counted=False)


def mmmu(text: str, item: Item, seed: int) -> Extracted:
    """MMMU: "(B)", else " B ", else "B.", else in a longer sentence the option's own words; of several the last one;
    without any a guess. Questions without options are read as free answers."""
    if not item.options:
        return free(text, item, seed)
    body = f" {text.strip().strip(',.!?;:' + chr(39)).strip()} "
    letters = LETTERS[: len(item.options)]
    for form in ("({})", " {} ", "{}."):
        places = {letter: body.rfind(form.format(letter)) for letter in letters}
        if max(places.values()) >= 0:
            return Extracted(letters.index(max(places, key=lambda letter: places[letter])))
    if len(body.split()) > SENTENCE:
        ends = [body.lower().rfind(option.lower()) if option else -1 for option in item.options]
        if max(ends) >= 0:
            return Extracted(ends.index(max(ends)))
    return Extracted(guess(item, seed), parsed=False)


def nearest_letter(text: str, item: Item, seed: int) -> Extracted:
    """The option's letter that the answer equals, begins with, is the beginning of or holds, else the one with the
    fewest edits; lower case. Only an empty answer is unparsable."""
    said, letters = text.strip().lower(), [letter.lower() for letter in LETTERS[: len(item.options)]]
    if not said:
        return Extracted(parsed=False)
    tests: tuple[Callable[[str], bool], ...] = (
        lambda letter: said == letter,
        lambda letter: said.startswith(letter),
        lambda letter: letter.startswith(said),
        lambda letter: letter in said,
    )
    for test in tests:
        for index, letter in enumerate(letters):
            if test(letter):
                return Extracted(index)
    edits = edit_distance([said] * len(letters), letters, reduction="none")
    return Extracted(int(edits.argmin()))


def temp_compass(text: str, item: Item, seed: int) -> Extracted:
    """The whole option, its letter alone, or "A." and "A)" before it. What is left was for ChatGPT to judge in the
    benchmark's own evaluation; here it is wrong, and counted as unparsable."""
    said = text.strip()
    for index, (letter, option) in enumerate(zip(LETTERS, item.options, strict=False)):
        whole = (f"{letter}. {option}", option, letter)
        if said in whole or said.startswith((f"{letter}.", f"{letter})")):
            return Extracted(index)
    return Extracted(parsed=False)


def yes_no(text: str, item: Item, seed: int) -> Extracted:
    """Begins with yes or no."""
    said = text.strip().lower()
    for index, option in enumerate(item.options):
        if said.startswith(option):
            return Extracted(index)
    return Extracted(parsed=False)


def free(text: str, item: Item, seed: int) -> Extracted:
    """The whole answer; an empty one is unparsable."""
    return Extracted(text=text.strip(), parsed=bool(text.strip()))


def number(text: str, item: Item, seed: int) -> Extracted:
    """A count: "total of 7" where Molmo2 points and counts, else the last number outside its tags, else a word."""
    plain = re.sub(r"<[^>]*>", " ", text)
    found = re.findall(r"total of (\d+)", plain) or re.findall(r"\d+", plain)
    words = [str(NUMBER_WORDS.index(word)) for word in re.findall(r"[a-z]+", plain.lower()) if word in NUMBER_WORDS]
    found = found or words
    return Extracted(text=found[-1]) if found else Extracted(parsed=False)


def letter_or_free(text: str, item: Item, seed: int) -> Extracted:
    """`nearest_letter` where there are options, else the whole answer."""
    return nearest_letter(text, item, seed) if item.options else free(text, item, seed)


def _letter(letter: str, item: Item) -> Extracted:
    index = LETTERS.find(letter) if letter else -1
    return Extracted(index) if 0 <= index < len(item.options) else Extracted(parsed=False)


def _first_of(letters: str, text: str, item: Item) -> Extracted:
    said = text.strip()
    for phrase in PHRASES:
        said = said.replace(phrase, "")
    found = re.search(f"[{letters}]", said)
    # A letter past the options is an answer too, and a wrong one.
    return Extracted(LETTERS.index(found.group())) if found else Extracted(parsed=False)


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        em_start, first_letter, long_video_bench, video_mme, mmmu, nearest_letter, temp_compass, yes_no, free, number,
        letter_or_free,
    )
}  # fmt: skip

WHERE_UNPARSED = {
    "long_video_bench": "answered by a seeded guess",
    "mmmu": "answered by a seeded guess",
    "video_mme": "left out of the accuracy",
}


def unparsed_policy(rule: str) -> str:
    """What becomes of an answer that the rule cannot read."""
    return WHERE_UNPARSED.get(rule, "counted as wrong")
