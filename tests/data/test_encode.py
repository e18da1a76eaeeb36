"""The sequence, against transformers' own statement of the layout."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from stts_lightning.data.encode import Encoder
from stts_lightning.data.prompts import question_text
from stts_lightning.data.records import Question
from stts_lightning.molmo2.load import tiny_tokenizer
from stts_lightning.molmo2.prompt import IGNORE, SHARED_PREFIX

QUESTIONS = (
    Question("1", "Where does the red shape appear?", ("top left", "top right"), 1, "where"),
    Question("2", "Is it schön?", ("yes", "no", "perhaps"), 2, "other"),
)
TIMES = np.array([0.0, 0.5, 1.25])


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(tiny_tokenizer(), window_rows=2, max_text_tokens=500)


def test_prefix_is_what_transformers_processor_writes(encoder: Encoder) -> None:
    from transformers.models.molmo2.processing_molmo2 import Molmo2Processor

    settings = SimpleNamespace(use_frame_special_tokens=True, video_use_col_tokens=False)
    text = Molmo2Processor.get_video_string(settings, torch.tensor([3, 2, 2]), TIMES)
    assert encoder.tokenizer.decode(encoder.prefix(TIMES)) == "<|im_end|>" + text


def test_whole_sequence_reads_as_molmo2_lays_it_out(encoder: Encoder) -> None:
    tokens, _ = encoder.encode(TIMES, QUESTIONS[1:])
    text = encoder.tokenizer.decode(tokens["input_ids"][len(encoder.prefix(TIMES)) :])
    assert text == (
        "<|im_start|>user\nIs it schön?\nA. yes\nB. no\nC. perhaps\n"
        "Answer with the option's letter from the given choices directly.<|im_end|>\n"
        "<|im_start|>assistant\nC<|im_end|>"
    )


def test_answers_alone_carry_loss(encoder: Encoder) -> None:
    tokens, asked = encoder.encode(TIMES, QUESTIONS)
    labelled = tokens["labels"] != IGNORE
    assert encoder.tokenizer.decode(tokens["labels"][labelled]) == "B<|im_end|>C<|im_end|>"
    assert torch.equal(tokens["loss_weights"] > 0, labelled)
    for question, predicted_at, letters in asked:
        assert encoder.tokenizer.decode(tokens["input_ids"][predicted_at + 1]) == "ABC"[question.answer]
        assert encoder.tokenizer.decode(letters) == "ABC"[: len(question.options)]


def test_branches_restart_after_the_prefix(encoder: Encoder) -> None:
    tokens, _ = encoder.encode(TIMES, QUESTIONS)
    prefix = len(encoder.prefix(TIMES))
    ids, positions = tokens["subsegment_ids"], tokens["position_ids"]
    assert ids.tolist() == [SHARED_PREFIX] * prefix + [0] * int((ids == 0).sum()) + [1] * int((ids == 1).sum())
    for branch in (0, 1):
        length = int((ids == branch).sum())
        assert positions[ids == branch].tolist() == list(range(prefix, prefix + length))


def test_frame_markers_are_vision_and_times_are_not(encoder: Encoder) -> None:
    tokens, _ = encoder.encode(TIMES, QUESTIONS)
    vision = tokens["input_ids"][tokens["mm_token_type_ids"] == 1]
    assert set(encoder.tokenizer.convert_ids_to_tokens(vision)) == {"<frame_start>", "<im_patch>", "<frame_end>"}
    assert len(vision) == 3 * (2 * 2 + 2)


def test_questions_are_cut_into_groups_that_fit(encoder: Encoder) -> None:
    many = QUESTIONS * 4
    lengths = [len(encoder.encode(TIMES, (q,))[0]["input_ids"]) - len(encoder.prefix(TIMES)) for q in QUESTIONS]
    tight = Encoder(encoder.tokenizer, 2, max_text_tokens=sum(lengths))
    assert [len(group) for group in tight.groups(many, 16)] == [2, 2, 2, 2]
    assert [len(group) for group in encoder.groups(many, 3)] == [3, 3, 2]
    assert sum(tight.groups(many, 16), ()) == many
    with pytest.raises(ValueError, match="question 2 is .* tokens long"):
        Encoder(encoder.tokenizer, 2, max_text_tokens=lengths[1] - 1).groups(many, 16)


def test_dense_labels_stand_one_place_right_of_their_window() -> None:
    from stts_lightning.data.scene import DENSE_CLASSES

    encoder = Encoder(tiny_tokenizer(), window_rows=2, max_text_tokens=500, dense_weight=0.5)
    classes = np.arange(12).reshape(3, 4).tolist()
    tokens, _ = encoder.encode(TIMES, QUESTIONS, classes)
    answers = tokens["loss_weights"] == tokens["loss_weights"].max()
    places = (tokens["input_ids"] == encoder.placeholder_id).nonzero().flatten()
    named = encoder.tokenizer.batch_decode(tokens["labels"][places + 1][:, None])
    assert named == [DENSE_CLASSES[i] for i in range(12)]
    assert float(tokens["loss_weights"][places + 1].sum()) == pytest.approx(
        0.5 * float(tokens["loss_weights"][answers].sum())
    )


def test_answers_weigh_by_their_length_and_their_number() -> None:
    """2 / sqrt(n) a token, n with the end token for one answer and without it for several, then 1 / sqrt(M)."""
    encoder = Encoder(tiny_tokenizer(), window_rows=2, max_text_tokens=500)
    for questions, weight in ((QUESTIONS[:1], 2 / 2**0.5), (QUESTIONS, 2 / 2**0.5), (QUESTIONS * 2, 2 / 4**0.5)):
        tokens, _ = encoder.encode(TIMES, questions)
        weights = tokens["loss_weights"][tokens["labels"] != IGNORE]
        assert weights.tolist() == pytest.approx([weight] * 2 * len(questions))


def test_question_text_numbers_options_with_letters() -> None:
    lines = question_text("Q?", ["one", "two", "three"]).splitlines()
    assert lines[:4] == ["Q?", "A. one", "B. two", "C. three"]
