"""Several samples to one batch, padded on the right."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from stts_lightning.config import BackboneConfig
from stts_lightning.data.encode import ImageSample, Sample, TextSample
from stts_lightning.data.images import join_tables
from stts_lightning.data.rows import join_samples
from stts_lightning.data.scene import CONTENTS
from stts_lightning.molmo2.prompt import IGNORE, count_prompts
from stts_lightning.video.patches import window_table

PADDING = {"labels": IGNORE, "subsegment_ids": -1}
BLANK_FRAMES = 2  # frame 0 always stays: with a second one, pruning has something to do


class Collate:
    """Pads the sequences and joins the videos, or the pictures; pixels stay bytes until they are on the device.

    Sequences are padded to ``pad_to`` tokens, or to the longest where that is longer. What the model would otherwise
    have to read back from the device, it is told from here: `prompt_counts`. Videos and pictures share a placeholder
    token, so a batch has one kind of them (see `sampler.KindSampler`); texts go with either. One of texts alone gets
    a blank video that no sequence shows (see `molmo2.patch`).
    """

    def __init__(self, pad_id: int, placeholder_id: int, backbone: BackboneConfig, pad_to: int = 0) -> None:
        self.pad_id = pad_id
        self.placeholder_id = placeholder_id
        self.image_size = backbone.image_size
        self.patches_per_side = backbone.image_size // backbone.patch_size
        self.window = backbone.window
        self.pad_to = pad_to

    def __call__(self, samples: list[Any]) -> dict[str, Any]:
        """The batch of samples of one kind: a sequence each, or lists of them that share one (`rows.join_samples`).

        Raises:
            ValueError: videos and pictures in one batch.
        """
        rows = [row if isinstance(row, list) else [row] for row in samples]
        everything = [sample for row in rows for sample in row]
        kinds = {type(sample) for sample in everything} - {TextSample}
        if len(kinds) > 1:
            raise ValueError("Videos and images cannot share a batch: draw batches of one kind with KindSampler.")
        batch = self._texts(rows)
        batch["skipped"] = [problem for sample in everything for problem in sample.skipped]
        batch["sources"] = [sample.source for sample in everything]
        batch["num_videos"] = sum(isinstance(sample, Sample) for sample in everything)
        seen = [sample for sample in everything if not isinstance(sample, TextSample)]
        if not seen:
            return batch | self._blank()
        return batch | (self._pictures(seen) if kinds == {ImageSample} else self._videos(seen))

    def _texts(self, rows: list[list[Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        joined, batch["asked"] = zip(*map(join_samples, rows), strict=True)
        for name in joined[0]:
            fill = self.pad_id if name == "input_ids" else PADDING.get(name, 0)
            padded = pad_sequence([tokens[name] for tokens in joined], batch_first=True, padding_value=fill)
            batch[name] = F.pad(padded, (0, max(self.pad_to - padded.shape[1], 0)), value=fill)
        lengths = torch.tensor([len(tokens["input_ids"]) for tokens in joined])
        batch["attention_mask"] = (torch.arange(batch["input_ids"].shape[1]) < lengths[:, None]).long()
        if self.pad_to:
            batch["sequence_length"] = self.pad_to
        batch["prompt_counts"] = count_prompts(
            batch["input_ids"], batch["attention_mask"], self.placeholder_id, batch["labels"]
        )
        learnt = (batch["labels"][:, 1:] != IGNORE) * batch["loss_weights"][:, 1:]
        batch["loss_weight"] = float(learnt.double().sum())  # of the whole batch
        return batch

    def _videos(self, samples: list[Sample]) -> dict[str, Any]:
        frames, side = torch.cat([sample.frames for sample in samples]), self.patches_per_side
        known = [sample.contents for sample in samples if sample.contents is not None]
        truth = {}
        if len(known) == len(samples):
            truth = {"contents": torch.cat(known)}
            truth["video_relevance"] = truth["contents"] == CONTENTS.index("event")
        return truth | {
            "frames": frames,
            "video_grids": [sample.grid for sample in samples],
            # One table for all frames of the batch: videos are joined along the frames.
            "video_token_pooling": window_table(len(frames), side, side, self.window),
            "times": [sample.times for sample in samples],
            "decoders": [sample.decoder for sample in samples],
        }

    def _blank(self) -> dict[str, Any]:
        side, pixels = self.patches_per_side, self.image_size
        rows = -(-side // self.window)
        return {
            "blank_video": True,
            "frames": torch.zeros(BLANK_FRAMES, pixels, pixels, 3, dtype=torch.uint8),
            "video_grids": [(BLANK_FRAMES, rows, rows)],
            "video_token_pooling": window_table(BLANK_FRAMES, side, side, self.window),
        }

    def _pictures(self, samples: list[ImageSample]) -> dict[str, Any]:
        num_crops = [crops for sample in samples for crops in sample.num_crops]
        tables = [table for sample in samples for table in sample.tables]
        return {
            "crops": torch.cat([sample.crops for sample in samples]),
            "image_grids": torch.tensor([grid for sample in samples for grid in sample.grids]),
            "image_num_crops": torch.tensor(num_crops),
            "image_token_pooling": join_tables(tables, [crops * self.patches_per_side**2 for crops in num_crops]),
        }
