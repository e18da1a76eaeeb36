"""The LightningDataModule: records -> clips -> batches -> pixels on the device."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from stts_lightning.config import Config
from stts_lightning.data.collate import Collate
from stts_lightning.data.dataset import VideoQuestions
from stts_lightning.data.encode import Encoder
from stts_lightning.data.generate import generated_set
from stts_lightning.data.records import ClipRecord, Problem, Records, hold_out, read_records
from stts_lightning.data.sampler import StepSampler
from stts_lightning.video.patches import frames_to_patches


class VideoQuestionData(pl.LightningDataModule):
    """Questions about videos: the generated set, or a user's JSON Lines file.

    ``warmup_steps`` are the steps before ``optim.steps`` in which the scorer learns alone.
    """

    def __init__(self, config: Config, tokenizer: PreTrainedTokenizerBase, warmup_steps: int = 0) -> None:
        super().__init__()
        self.warmup_steps = warmup_steps
        self.config = config
        self.tokenizer = tokenizer
        self.problems: list[Problem] = []  # unusable questions of the training data, counted once each
        self.num_questions = 0
        self._train_clips: list[ClipRecord] = []
        self._eval_clips: list[ClipRecord] = []

    def setup(self, stage: str | None = None) -> None:
        """Read the records. In training bad ones are counted against the budget.

        Raises:
            ValueError: too many bad questions, or any at all in the evaluation data; the message lists them.
        """
        if self._eval_clips:
            return
        data = self.config.data
        if data.train is None:
            made = generated_set(data.generated)
            records = read_records(made.train)
            self._train_clips, self._eval_clips = records.clips, _strict(read_records(made.eval))
        else:
            records = read_records(data.train)
            if data.eval is not None:
                self._train_clips, self._eval_clips = records.clips, _strict(read_records(data.eval))
            else:
                self._train_clips, self._eval_clips = hold_out(records, data.eval_fraction)
        self.num_questions = records.num_questions
        self.count_problems(records.problems)

    @property
    def eval_clips(self) -> list[ClipRecord]:
        return self._eval_clips

    def count_problems(self, problems: list[Problem]) -> None:
        """Add problems that are new, and stop where they pass the budget.

        Raises:
            ValueError: more unusable questions than ``data.bad_sample_budget`` allows; lists them.
        """
        known = {problem.where for problem in self.problems}
        self.problems += [problem for problem in problems if problem.where not in known]
        lost = sum(problem.questions for problem in self.problems)
        budget = self.config.data.bad_sample_budget
        if lost > budget * self.num_questions:
            listed = "\n  ".join(map(str, self.problems[:50]))
            raise ValueError(
                f"{lost} of {self.num_questions} training questions cannot be used, more than "
                f"data.bad_sample_budget={budget} allows. Mend them or raise the budget:\n  {listed}"
            )

    def train_dataloader(self) -> DataLoader:
        optim, trainer = self.config.optim, self.trainer
        dataset = self._dataset(self._train_clips, optim.dense_weight, strict=False)
        sampler = StepSampler(
            len(dataset),
            optim.batch_size,
            optim.steps * optim.accumulate,
            self.config.seed,
            warmup_batches=self.warmup_steps * optim.accumulate,
            done_batches=trainer.global_step * optim.accumulate if trainer else 0,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )
        return self._loader(dataset, batch_sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        dataset = self._dataset(self._eval_clips, 0.0, strict=True)
        return self._loader(dataset, batch_size=self.config.optim.batch_size)

    def _dataset(self, clips: list[ClipRecord], dense_weight: float, strict: bool) -> VideoQuestions:
        backbone, data = self.config.backbone, self.config.data
        side = -(-backbone.image_size // backbone.patch_size // backbone.window)
        encoder = Encoder(self.tokenizer, side, data.max_text_tokens, dense_weight)
        return VideoQuestions(
            clips,
            encoder,
            self.config.video,
            backbone,
            data.questions_per_clip,
            data.frame_cache_mib,
            data.frame_cache_dir,
            strict,
        )

    def _loader(self, dataset: VideoQuestions, **how: Any) -> DataLoader:
        backbone, workers = self.config.backbone, self.config.data.num_workers
        pad_id = self.tokenizer.pad_token_id or 0
        return DataLoader(
            dataset,
            collate_fn=Collate(
                pad_id, dataset.encoder.placeholder_id, backbone.image_size // backbone.patch_size, backbone.window
            ),
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(self.config.seed),  # private: resume must not shift the global one
            **how,
        )

    def transfer_batch_to_device(
        self, batch: dict[str, Any], device: torch.device, dataloader_idx: int
    ) -> dict[str, Any]:
        """Tensors alone: what was asked and what is counted stays on the host, where nothing waits for it."""
        return {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Bytes become normalised patches on the device: a quarter of the traffic."""
        batch["pixel_values_videos"] = frames_to_patches(batch.pop("frames"), self.config.backbone.patch_size)
        return batch


def _strict(records: Records) -> list[ClipRecord]:
    if records.problems:
        listed = "\n  ".join(map(str, records.problems[:50]))
        raise ValueError(f"{len(records.problems)} evaluation questions cannot be used:\n  {listed}")
    return records.clips
