"""A tiny Molmo2 and its inputs, for every test that needs the real model classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch import Tensor
from transformers import Molmo2ForConditionalGeneration

from stts_lightning.config import BackboneConfig, TinyConfig
from stts_lightning.molmo2.load import attention_by_part, tiny_molmo2
from stts_lightning.molmo2.tokenizer import train_tokenizer
from stts_lightning.video import Clip, ClipReader

torch.set_num_threads(1)
# The same examples in every run: a red test is red again, and no database is written.
settings.register_profile("stts", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("stts")

WINDOW = 3
PATCH = 4  # pixels
READERS = ("benchmark.answer", "data.dataset", "hosts.answer")  # of clips
Inputs = dict[str, Tensor]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs, whose files lie at the top, come first: no process is left with one when the others have ended."""
    items.sort(key=lambda item: len(item.path.parts))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """Bytes and special tokens: the model's own tokenizer would wait for the embedded set's texts."""
    return train_tokenizer(["what moves"])


@pytest.fixture(scope="session")
def build_model(tiny_tokenizer: Any) -> Callable[..., Molmo2ForConditionalGeneration]:
    """``build_model(side=9)``: a stock Molmo2 in evaluation mode for frames of side x side patches."""

    def build(side: int = 9, attention: str = "sdpa", patch: int = PATCH, **sizes: Any) -> Any:
        tiny = TinyConfig(**{"vit_hidden": 16, "vit_mlp": 32, "adapter_mlp": 48, "text_hidden": 48, **sizes})
        config = BackboneConfig(image_size=side * patch, patch_size=patch, attention=attention, tiny=tiny)
        return tiny_molmo2(config, tiny_tokenizer, attention_by_part(attention)).eval()

    return build


@pytest.fixture()
def model(build_model: Callable[..., Molmo2ForConditionalGeneration]) -> Molmo2ForConditionalGeneration:
    return build_model()


def slow_table(num_frames: int, side: int, window: int = WINDOW) -> Tensor:
    """Flat patch indices of each window, row by row; -1 where the window hangs over the frame's edge."""
    across = -(-side // window)
    table = []
    for frame in range(num_frames):
        for row in range(across):
            for column in range(across):
                slots = []
                for y in range(row * window, (row + 1) * window):
                    for x in range(column * window, (column + 1) * window):
                        inside = y < side and x < side
                        slots.append(frame * side * side + y * side + x if inside else -1)
                table.append(slots)
    return torch.tensor(table)


@pytest.fixture(scope="session")
def build_table() -> Callable[..., Tensor]:
    return slow_table


@pytest.fixture(scope="session")
def build_inputs(tiny_tokenizer: Any) -> Callable[..., Inputs]:
    """``build_inputs([5, 3])``: one prompt a video, ``[BOS] (timestamp <start> placeholders <end>)* text``.

    A video's pixels and text follow from its own seed alone, so that a batch can be compared with its parts.
    """
    token = tiny_tokenizer.convert_tokens_to_ids
    start, placeholder, end = token("<frame_start>"), token("<im_patch>"), token("<frame_end>")

    def build(
        frames: Sequence[int],
        seeds: Sequence[int] | None = None,
        side: int = 9,
        text: Sequence[int] = (7, 10),
        left: bool = False,
        patch: int = PATCH,
    ) -> Inputs:
        windows = (-(-side // WINDOW)) ** 2
        seeds = range(len(frames)) if seeds is None else seeds
        rows, pixels = [], []
        for count, seed in zip(frames, seeds, strict=True):
            generator = torch.Generator().manual_seed(100 + seed)
            row = [0]
            for i in range(count):
                row += [20 + i, start, *[placeholder] * windows, end]
            length = text[seed % len(text)]
            rows.append(row + torch.randint(5, 200, (length,), generator=generator).tolist())
            pixels.append(torch.rand(count, side * side, patch * patch * 3, generator=generator) * 2 - 1)
        longest = max(map(len, rows))

        def pad(row: list[int], value: int) -> list[int]:
            gap = [value] * (longest - len(row))
            return gap + row if left else row + gap

        input_ids = torch.tensor([pad(row, 0) for row in rows])
        vision = torch.isin(input_ids, torch.tensor([start, placeholder, end]))
        across = -(-side // WINDOW)
        return {
            "input_ids": input_ids,
            "attention_mask": torch.tensor([pad([1] * len(row), 0) for row in rows]),
            "mm_token_type_ids": vision.long(),
            "pixel_values_videos": torch.cat(pixels),
            "video_token_pooling": slow_table(sum(frames), side),
            "video_grids": torch.tensor([[count, across, across] for count in frames]),
        }

    return build


@pytest.fixture(scope="session")
def decoding() -> Iterator[ClipReader]:
    with ClipReader(timeout_s=60) as reader:
        yield reader


@pytest.fixture()
def one_decoding_process(decoding: ClipReader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever reads a clip here takes it from one process: each of its own would import torch for two seconds."""

    class Borrowed(ClipReader):
        def read(self, *arguments: Any, **options: Any) -> Clip:
            return decoding.read(*arguments, **options)

    for module in READERS:
        monkeypatch.setattr(f"stts_lightning.{module}.ClipReader", Borrowed)
