"""Several samples to one batch, padded on the right."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from stts_lightning.data.encode import ImageSample, Sample
from stts_lightning.data.images import join_tables
from stts_lightning.data.scene import CONTENTS
from stts_lightning.molmo2.prompt import IGNORE, count_prompts
from stts_lightning.video.patches import window_table

PADDING = {"labels": IGNORE, "subsegment_ids": -1}


class Collate:
    """Pads the sequences and joins the videos, or the pictures; pixels stay bytes until they are on the device.

    What the model would otherwise have to read back from the device, it is told from here: `prompt_counts`.
    Videos and pictures share a placeholder token, so a batch is of one kind (see `sampler.KindSampler`).
    """

    def __init__(self, pad_id: int, placeholder_id: int, patches_per_side: int, window: int) -> None:
        self.pad_id = pad_id
        self.placeholder_id = placeholder_id
        self.patches_per_side = patches_per_side
        self.window = window

    def __call__(self, samples: list[Sample] | list[ImageSample]) -> dict[str, Any]:
        """The batch of samples of one kind.

        Raises:
            ValueError: videos and pictures in one batch.
        """
        kinds = {type(sample) for sample in samples}
        if len(kinds) > 1:
            raise ValueError("Videos and images cannot share a batch: draw batches of one kind with KindSampler.")
        batch = self._texts(samples)
        batch |= self._pictures(samples) if kinds == {ImageSample} else self._videos(samples)  # type: ignore[arg-type]
        return batch

    def _texts(self, samples: list[Any]) -> dict[str, Any]:
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
        learnt = (batch["labels"][:, 1:] != IGNORE) * batch["loss_weights"][:, 1:]
        batch["loss_weight"] = float(learnt.double().sum())  # of the whole batch
        batch["asked"] = [sample.asked for sample in samples]
        batch["skipped"] = [problem for sample in samples for problem in sample.skipped]
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
            "videos": [sample.video for sample in samples],
            "times": [sample.times for sample in samples],
            "decoders": [sample.decoder for sample in samples],
        }

    def _pictures(self, samples: list[ImageSample]) -> dict[str, Any]:
        num_crops = [crops for sample in samples for crops in sample.num_crops]
        tables = [table for sample in samples for table in sample.tables]
        return {
            "crops": torch.cat([sample.crops for sample in samples]),
            "image_grids": torch.tensor([grid for sample in samples for grid in sample.grids]),
            "image_num_crops": torch.tensor(num_crops),
            "image_token_pooling": join_tables(tables, [crops * self.patches_per_side**2 for crops in num_crops]),
            "videos": [sample.source for sample in samples],
        }
