"""Several samples to one batch, padded on the right."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from stts_lightning.data.encode import Sample
from stts_lightning.molmo2.prompt import IGNORE, count_prompts
from stts_lightning.video.patches import window_table

PADDING = {"labels": IGNORE, "subsegment_ids": -1}


class Collate:
    """Pads the sequences and joins the videos; pixels stay bytes until they are on the device.

    What the model would otherwise have to read back from the device, it is told from here: `prompt_counts`.
    """

    def __init__(self, pad_id: int, placeholder_id: int, patches_per_side: int, window: int) -> None:
        self.pad_id = pad_id
        self.placeholder_id = placeholder_id
        self.patches_per_side = patches_per_side
        self.window = window

    def __call__(self, samples: list[Sample]) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        for name in samples[0].tokens:
            fill = self.pad_id if name == "input_ids" else PADDING.get(name, 0)
            rows = [sample.tokens[name] for sample in samples]
            batch[name] = pad_sequence(rows, batch_first=True, padding_value=fill)
        lengths = torch.tensor([len(sample.tokens["input_ids"]) for sample in samples])
        batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        batch["prompt_counts"] = count_prompts(
            batch["input_ids"], batch["attention_mask"], self.placeholder_id, batch["labels"]
        )
        batch["frames"] = torch.cat([sample.frames for sample in samples])
        batch["video_grids"] = [sample.grid for sample in samples]
        side = self.patches_per_side
        # One table for all frames of the batch: videos are joined along the frames.
        batch["video_token_pooling"] = window_table(len(batch["frames"]), side, side, self.window)
        batch["asked"] = [sample.asked for sample in samples]
        batch["videos"] = [sample.video for sample in samples]
        batch["times"] = [sample.times for sample in samples]
        batch["decoders"] = [sample.decoder for sample in samples]
        batch["skipped"] = [problem for sample in samples for problem in sample.skipped]
        return batch
