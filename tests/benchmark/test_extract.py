from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stts_lightning.benchmark.extract import RULES, guess
from stts_lightning.benchmark.items import Item

OPTIONS = ("a red car", "the blue door", "green", "nothing at all")


def item(options=OPTIONS, ident="q1", answers=()):
    return Item(
        id=ident, kind="all", prompt="", question="", options=tuple(options), answer=0 if options else None,
        answers=answers, category="", media="v",
    )  # fmt: skip


def said(rule, text, options=OPTIONS, ident="q1"):
    return RULES[rule](text, item(options, ident), 0)


@pytest.mark.parametrize(
    ("rule", "text", "choice"),
    [
        ("em_start", "B", 1),
        ("em_start", "  b. the blue door", 1),
        ("em_start", "Because it is blue", 1),  # the rule looks at the beginning alone
        ("em_start", "(B)", None),
        ("em_start", "The answer is B", None),
        ("em_start", "E", None),  # no such option
        ("first_letter", "The answer is C.", 2),
        ("first_letter", "Car, so D", 3),
        ("first_letter", "b", None),
        ("first_letter", "E", None),
        ("long_video_bench", "The best answer is C", 2),
        ("long_video_bench", "The answer: D", 3),
        ("long_video_bench", "(B) the blue door", 1),
        ("video_mme", "The correct answer is C.", 2),
        ("video_mme", "D. nothing at all", 3),
        ("mmmu", "B", 1),
        ("mmmu", "(C) or rather (B)", 1),
        ("mmmu", "A or D", 3),
        ("mmmu", "D. nothing", 3),
        ("mmmu", "I think that (A) beats B here", 0),  # brackets go before bare letters
        ("mmmu", "it must be the blue door over there", 1),
        ("mmmu", "not the blue door but a red car then", 0),
        ("nearest_letter", "b", 1),
        ("nearest_letter", "C. green", 2),
        ("nearest_letter", "(d)", 3),
        ("nearest_letter", "x", 0),  # every letter is one edit away; the first wins
        ("temp_compass", "B", 1),
        ("temp_compass", "B) something", 1),
        ("temp_compass", "B. the blue door", 1),
        ("temp_compass", "the blue door", 1),
        ("temp_compass", "blue", None),
        ("temp_compass", "Because", None),
    ],
)
def test_finds_the_option(rule, text, choice):
    found = said(rule, text)
    assert found.choice == choice and found.parsed == (choice is not None) and found.counted


@pytest.mark.parametrize("rule", ["long_video_bench", "mmmu"])
def test_a_guess_takes_the_place_of_nothing(rule):
    found = [said(rule, "i cannot tell", ident=f"q{i}") for i in range(400)]
    assert not any(f.parsed for f in found) and all(f.counted for f in found)
    share = [sum(f.choice == k for f in found) / len(found) for k in range(4)]
    assert all(0.15 < s < 0.35 for s in share)
    assert [said(rule, "i cannot tell", ident=f"q{i}").choice for i in range(400)] == [f.choice for f in found]


def test_a_guess_follows_from_seed_and_question():
    one, other = ([guess(item(ident=f"q{i}"), seed) for i in range(50)] for seed in (0, 1))
    assert one == [guess(item(ident=f"q{i}"), 0) for i in range(50)] != other


def test_video_mme_leaves_the_unreadable_out():
    found = said("video_mme", "i cannot tell")
    assert not found.parsed and not found.counted and found.choice is None


@pytest.mark.parametrize(("text", "choice"), [("Yes, it is", 0), ("no.", 1), ("It does not", None), ("", None)])
def test_yes_or_no(text, choice):
    assert said("yes_no", text, ("yes", "no")).choice == choice


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("7", "7"),
        ("There are 3 cats and 12 dogs", "12"),
        ('<points x1="9" y1="8">dogs</points> shows a total of 5', "5"),
        ("Counting shows a total of 5. 2 are black.", "5"),
        ("twelve", "12"),
        ("none", ""),
    ],
)
def test_counts(text, count):
    found = said("number", text, ())
    assert found.text == count and found.parsed == bool(count)


@pytest.mark.parametrize("rule", RULES)
@given(text=st.text(max_size=30), count=st.integers(2, 6))
def test_no_rule_ever_fails_on_what_a_model_may_write(rule, text, count):
    found = RULES[rule](text, item([f"option {i}" for i in range(count)]), 0)
    assert found.choice is None or found.choice >= 0
    if not text.strip():
        assert not found.parsed


@given(text=st.text(alphabet="ABCDEabcde. ()xyz", max_size=12), right=st.integers(0, 3))
def test_em_start_is_correct_iff_the_text_begins_with_the_letter(text, right):
    begins = text.strip().lower().startswith("abcd"[right])
    assert (said("em_start", text).choice == right) == begins
