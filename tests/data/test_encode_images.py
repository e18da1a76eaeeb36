"""The sequence of pictures, against transformers' own statement of the layout."""

from __future__ import annotations

import pytest
import torch
from port_images import image_text

from stts_lightning.config import ImageConfig
from stts_lightning.data.encode import Encoder
from stts_lightning.data.records import Question
from stts_lightning.molmo2.load import tiny_tokenizer
from stts_lightning.molmo2.prompt import IGNORE

GRIDS = [(2, 2, 3, 4), (2, 2, 1, 5), (2, 2, 4, 1)]
QUESTIONS = (
    Question("1", "Which?", ("this", "that"), 1, "which"),
    Question("2", "Where?", ("here", "there", "nowhere"), 0, "where"),
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(tiny_tokenizer(), window_rows=2, max_text_tokens=500)


@pytest.mark.parametrize("column, low_res_column", [(True, True), (True, False), (False, False), (False, True)])
def test_a_single_picture_is_what_transformers_processor_writes(
    encoder: Encoder, column: bool, low_res_column: bool
) -> None:
    settings = ImageConfig(column_tokens=column, low_res_column_tokens=low_res_column)
    text = encoder.tokenizer.decode(encoder.image_prefix(GRIDS[:1], settings))
    assert text == "<|im_end|>" + image_text(GRIDS[0], settings)


def test_several_pictures_are_numbered(encoder: Encoder) -> None:
    settings = ImageConfig()
    expected = "".join(f"Image {i}{image_text(grid, settings)}" for i, grid in enumerate(GRIDS, start=1))
    assert encoder.tokenizer.decode(encoder.image_prefix(GRIDS, settings)) == "<|im_end|>" + expected


def test_a_placeholder_a_window(encoder: Encoder) -> None:
    ids = encoder.image_prefix(GRIDS, ImageConfig())
    assert ids.count(encoder.placeholder_id) == sum(a * b + c * d for a, b, c, d in GRIDS)


def test_markers_and_columns_are_vision_and_numbers_are_not(encoder: Encoder) -> None:
    tokens, _ = encoder.encode_images(GRIDS, ImageConfig(), QUESTIONS)
    vision = encoder.tokenizer.convert_ids_to_tokens(tokens["input_ids"][tokens["mm_token_type_ids"] == 1])
    assert set(vision) == {"<low_res_im_start>", "<im_start>", "<im_patch>", "<im_col>", "<im_end>"}
    rest = encoder.tokenizer.decode(tokens["input_ids"][tokens["mm_token_type_ids"] == 0])
    assert rest.startswith("<|im_end|>Image 1Image 2Image 3<|im_start|>user\nWhich?\nA. this\nB. that\n")


def test_questions_on_the_same_pictures_are_branches(encoder: Encoder) -> None:
    prefix = len(encoder.image_prefix(GRIDS, ImageConfig()))
    tokens, asked = encoder.encode_images(GRIDS, ImageConfig(), QUESTIONS)
    answers = tokens["labels"] != IGNORE
    assert encoder.tokenizer.decode(tokens["labels"][answers]) == "B<|im_end|>A<|im_end|>"
    assert [tokens["input_ids"][a.predicted_at + 1] for a in asked] == [encoder.letter_ids[1], encoder.letter_ids[0]]
    for branch, question in enumerate(QUESTIONS):
        alone, _ = encoder.encode_images(GRIDS, ImageConfig(), (question,))
        here = tokens["subsegment_ids"] == branch
        for name in ("input_ids", "position_ids", "labels", "loss_weights"):
            assert torch.equal(tokens[name][here], alone[name][prefix:]), name
