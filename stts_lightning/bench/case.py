"""What is measured: a model with random weights and a batch of videos of a known size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from stts_lightning.molmo2.prompt import IGNORE, SHARED_PREFIX, count_prompts
from stts_lightning.video.patches import window_table

WINDOW = 3
LAYERS = {"4b": 3, "small": 0}  # l: a fifth of the ViT's blocks run unpruned in both
TEXT_TOKENS = {"4b": 2048, "small": 400}  # as in the paper's Table 6, and in proportion to the windows


@dataclass(frozen=True)
class Shape:
    """``videos`` prompts of one video of ``frames`` frames each."""

    size: str
    videos: int
    frames: int

    @property
    def name(self) -> str:
        return f"{self.videos} x {self.frames}"

    def video_tokens(self, windows: int) -> list[int]:
        """One prompt's tokens as numbers: 0 text, 1 marker, 2 placeholder. At the real size a frame begins with its
        time, one token a character, every 32.5 s as the paper's Table 6 was counted; scaled down with none."""
        tokens = []
        for i in range(self.frames):
            time = f"{' ' if i else ''}{32.5 * i:.1f} " if self.size == "4b" else ""
            tokens += [0] * len(time) + [1] + [2] * windows + [1]
        return tokens + [0] * TEXT_TOKENS[self.size]


def make_batch(shape: Shape, model_config: Any, device: torch.device, *, training: bool, ours: bool) -> dict[str, Any]:
    """The model's inputs; the last eighth of the text is learnt.

    ``ours`` adds what the LightningDataModule adds (weights, sub-segments, what the host has counted); without it
    the batch is the stock model's.
    """
    vision = model_config.vision_config
    side = vision.image_size[0] // vision.patch_size
    rows = side // WINDOW
    generator = torch.Generator().manual_seed(shape.frames)
    kinds = torch.tensor(shape.video_tokens(rows * rows))
    text = torch.randint(0, model_config.text_config.vocab_size, (shape.videos, len(kinds)), generator=generator)
    input_ids = torch.where(kinds == 1, model_config.frame_start_token_id, text)
    input_ids = torch.where(kinds == 2, model_config.image_token_id, input_ids)
    frames = shape.videos * shape.frames
    grid = (shape.frames, rows, rows)
    batch: dict[str, Any] = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (kinds > 0).long().expand_as(input_ids).contiguous(),
        "pixel_values_videos": _moving_pixels(frames, side * side, vision.patch_size**2 * 3, generator),
        "video_token_pooling": window_table(frames, side, side, WINDOW),
        "video_grids": torch.tensor([grid] * shape.videos),
    }
    if training:
        learnt = torch.arange(len(kinds)) >= len(kinds) - TEXT_TOKENS[shape.size] // 8
        batch["labels"] = torch.where(learnt, input_ids, IGNORE)
    if ours:
        batch["video_grids"] = [grid] * shape.videos
        batch["prompt_counts"] = count_prompts(
            input_ids, batch["attention_mask"], model_config.image_token_id, batch.get("labels")
        )
        if training:
            batch["loss_weights"] = torch.ones(input_ids.shape)
            batch["subsegment_ids"] = torch.full_like(input_ids, SHARED_PREFIX)
    return {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}


def _moving_pixels(frames: int, patches: int, values: int, generator: torch.Generator) -> torch.Tensor:
    """Noise of which each frame changes another share of its patches: pruning leaves frames of many lengths."""
    pixels = torch.empty(frames, patches, values)
    pixels[0] = torch.randn(patches, values, generator=generator)
    share = torch.rand(frames, generator=generator) ** 2
    for i in range(1, frames):
        changed = torch.rand(patches, generator=generator) < share[i]
        pixels[i] = torch.where(changed[:, None], torch.randn(patches, values, generator=generator), pixels[i - 1])
    return pixels
