"""Molmo2 answers: prompt and frames built as in training, and generated greedily."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from stts_lightning.benchmark.declare import Benchmark
from stts_lightning.benchmark.items import Item
from stts_lightning.benchmark.subtitles import subtitle_text
from stts_lightning.config import Config
from stts_lightning.data.encode import Encoder
from stts_lightning.data.images import crop_image, join_tables, read_image
from stts_lightning.data.prompts import BOS, user_turn
from stts_lightning.video.clip import Clip
from stts_lightning.video.patches import frames_to_patches, window_table
from stts_lightning.video.reader import ClipReader
from stts_lightning.video.write import playable


class Asked(NamedTuple):
    """A prompt and the clip that it shows, if any."""

    ids: list[int]
    clip: Clip | None


class Molmo2Answerer:
    """Answers questions about videos and pictures with a pruned (or stock) Molmo2."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        config: Config,
        benchmark: Benchmark,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.config = config
        self.benchmark = benchmark
        backbone = config.backbone
        self.side = backbone.image_size // backbone.patch_size
        self.encoder = Encoder(tokenizer, -(-self.side // backbone.window), config.data.max_text_tokens)
        self.reader = ClipReader(timeout_s=config.video.decode_timeout_s)

    def __call__(self, item: Item) -> str:
        return self.many([item])[0]

    def many(self, items: Sequence[Item]) -> list[str]:
        size = self.config.benchmark.batch_size
        answers: list[str] = []
        for start in range(0, len(items), size):
            answers += self._batch(items[start : start + size])
        return answers

    def close(self) -> None:
        """End the process that decodes; the next question starts a new one."""
        self.reader.close()

    def _batch(self, items: Sequence[Item]) -> list[str]:
        if any(item.images for item in items):
            return [self._generate(self.picture_inputs(item))[0] for item in items]
        return self._generate(self.inputs([self.ask(item) for item in items]))

    def ask(self, item: Item) -> Asked:
        """Decode and build one prompt: BOS, timed frames, subtitles near them, the question."""
        if item.video is None:
            return Asked(self._ids(BOS) + self._ids(user_turn(item.prompt)), None)
        clip = self._read(item)
        text = subtitle_text(item.subtitles, clip.times) + user_turn(item.prompt)
        return Asked(self.encoder.prefix(clip.times) + self._ids(text), clip)

    def _read(self, item: Item) -> Clip:
        assert item.video is not None
        video, backbone = self.config.video, self.config.backbone
        return self.reader.read(
            playable(item.video, self.benchmark.media.frames_fps),
            size=backbone.image_size,
            max_frames=video.max_frames,
            max_fps=video.fps,
            start=item.start,
            end=item.end,
            decoder=item.decoder if item.decoder != "auto" else video.decoder,
            resize=video.resize,
        )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def inputs(self, asked: Sequence[Asked]) -> dict[str, Any]:
        """One batch, padded on the left; all rows show a video or none does."""
        longest, pad = max(len(a.ids) for a in asked), self.tokenizer.pad_token_id or 0
        input_ids = torch.tensor([[pad] * (longest - len(a.ids)) + a.ids for a in asked])
        mask = torch.tensor([[0] * (longest - len(a.ids)) + [1] * len(a.ids) for a in asked])
        vision = torch.isin(input_ids, self.encoder.vision_ids).long()
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": mask, "mm_token_type_ids": vision}
        frames = [torch.from_numpy(a.clip.frames) for a in asked if a.clip is not None]
        if frames:
            backbone, rows = self.config.backbone, self.encoder.window_rows
            inputs["pixel_values_videos"] = frames_to_patches(torch.cat(frames), backbone.patch_size)
            inputs["video_token_pooling"] = window_table(sum(map(len, frames)), self.side, self.side, backbone.window)
            inputs["video_grids"] = torch.tensor([[len(clip), rows, rows] for clip in frames])
        return inputs

    def picture_inputs(self, item: Item) -> dict[str, Tensor]:
        """One prompt: BOS, the pictures as a whole and in crops, the question.

        Raises:
            ImageError: a picture that cannot be read.
        """
        backbone, settings = self.config.backbone, self.config.image
        read = [read_image(f"{item.id}, picture {i}", ref.read()) for i, ref in enumerate(item.images, start=1)]
        pictures = [crop_image(pixels, backbone, settings) for pixels in read]
        grids = [picture.grid for picture in pictures]
        input_ids = torch.tensor(
            [self.encoder.image_prefix(grids, settings) + self._ids(user_turn(item.prompt))], dtype=torch.long
        )
        num_crops = [len(picture.pixels) for picture in pictures]
        crops = torch.from_numpy(np.concatenate([picture.pixels for picture in pictures]))
        tables = [picture.table_MP for picture in pictures]
        return {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "mm_token_type_ids": torch.isin(input_ids, self.encoder.vision_ids).long(),
            "pixel_values": frames_to_patches(crops, backbone.patch_size),
            "image_token_pooling": join_tables(tables, [count * self.side**2 for count in num_crops]),
            "image_grids": torch.tensor(grids),
            "image_num_crops": torch.tensor(num_crops),
        }

    @torch.no_grad()
    def _generate(self, inputs: dict[str, Any]) -> list[str]:
        device = self.model.device
        moved = {name: value.to(device) for name, value in inputs.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.trainer.precision == "bf16-mixed"):
            out = self.model.generate(**moved, max_new_tokens=self.benchmark.max_new_tokens, do_sample=False)
        answers = out[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]


def molmo2_answerer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    benchmark: Benchmark,
) -> Molmo2Answerer:
    """An answerer for `run_benchmark` from a model that `load_backbone` or `load_pruned` gave."""
    return Molmo2Answerer(model, tokenizer, config, benchmark)
