"""The LightningDataModule: records -> clips -> batches -> pixels on the device."""

from __future__ import annotations

from dataclasses import asdict
from itertools import chain, pairwise
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from transformers import PreTrainedTokenizerBase

from stts_lightning.config import Config
from stts_lightning.data.collate import Collate
from stts_lightning.data.dataset import ImageQuestions, TextQuestions, VideoQuestions
from stts_lightning.data.encode import Encoder
from stts_lightning.data.generate import generated_set
from stts_lightning.data.generate_images import generated_images
from stts_lightning.data.records import ClipRecord, ImageRecord, Problem, Records, list_problems, read_records
from stts_lightning.data.split import hold_out_images, split_records
from stts_lightning.data.steps import StepBatches
from stts_lightning.data.training import Place, Source, training_batches
from stts_lightning.processes import gather, share_out
from stts_lightning.video.patches import frames_to_patches


class VideoQuestionData(pl.LightningDataModule):
    """Questions about videos and images: the generated sets, or a user's JSON Lines file.

    ``warmup_steps`` are the steps before ``optim.steps`` in which the scorer learns alone.
    """

    def __init__(self, config: Config, tokenizer: PreTrainedTokenizerBase, warmup_steps: int = 0) -> None:
        super().__init__()
        self.warmup_steps = warmup_steps
        self.config = config
        self.tokenizer = tokenizer
        self.problems: list[Problem] = []  # unusable questions of the training data, counted once each
        self.num_questions = 0
        self.num_eval_batches = 0  # of all processes together
        self.streams: dict[str, Any] | None = None  # where the packed streams stand after the last batch trained on
        self._train: Records | None = None
        self._eval: Records | None = None

    def prepare_data(self) -> None:
        """Make the embedded sets that are not there yet: once on each machine, before `setup` reads them."""
        data = self.config.data
        if data.train is None:
            generated_set(data.generated)
            if data.image_share:
                generated_images(data.generated_images, data.generated.root)

    def setup(self, stage: str | None = None) -> None:
        """Read the records. In training bad ones are counted against the budget.

        Raises:
            ValueError: too many bad questions, or any at all in the evaluation data; the message lists them.
        """
        if self._eval is not None:
            return
        data = self.config.data
        if data.train is None:
            made = generated_set(data.generated)
            train, held = read_records(made.train), _strict(read_records(getattr(made, data.eval_split)))
            if data.image_share:
                pictures = generated_images(data.generated_images, data.generated.root)
                train.images = read_records(pictures.train).images
            self.num_questions = train.num_questions
        else:
            train = read_records(data.train)
            self.num_questions = train.num_questions
            if data.eval is not None:
                held = _strict(read_records(data.eval))
            else:
                train, held = split_records(train, data.eval_fraction)
            if data.image_share and not train.images:
                raise ValueError(f"data.image_share={data.image_share}, but {data.train} has no line with `images`.")
        self._train, self._eval = train, held
        self.count_problems(train.problems)

    def state_dict(self) -> dict[str, Any]:
        """Where the packed streams of every process stand, and what none of them could use. Called by all of them."""
        problems = _merged(gather(self.problems))
        state: dict[str, Any] = {"problems": [asdict(problem) for problem in problems]} if problems else {}
        if self.config.data.packing.enabled:
            state["streams"] = gather(self.streams)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.problems = _merged([self.problems, [Problem(**known) for known in state_dict.get("problems", [])]])
        everyone, rank = state_dict.get("streams", []), self.trainer.global_rank if self.trainer else 0
        self.streams = everyone[rank] if rank < len(everyone) else None

    @property
    def eval_clips(self) -> list[ClipRecord]:
        assert self._eval is not None
        return self._eval.clips

    def note_problems(self, problems: list[Problem]) -> None:
        """Add those that are new."""
        self.problems = _merged([self.problems, problems])

    def count_problems(self, problems: list[Problem]) -> None:
        """Add problems that are new, and stop where they pass the budget.

        Raises:
            ValueError: more unusable questions than ``data.bad_sample_budget`` allows; lists them.
        """
        self.note_problems(problems)
        lost = sum(problem.questions for problem in self.problems)
        if lost > self._may_lose:
            raise ValueError(
                f"{lost} of {self.num_questions} training questions cannot be used, more than data.bad_sample_budget="
                f"{self.config.data.bad_sample_budget} allows. Mend them or raise the budget:\n  "
                f"{list_problems(self.problems)}"
            )

    def share_problems(self) -> None:
        """Count what any process found, on all of them: the budget is one for all. Called by all of them.

        Raises:
            ValueError: as `count_problems`, and then on every process.
        """
        self.count_problems(_merged(gather(self.problems)))

    @property
    def _may_lose(self) -> float:
        return self.config.data.bad_sample_budget * self.num_questions

    def train_dataloader(self) -> StepBatches:
        assert self._train is not None
        optim, trainer = self.config.optim, self.trainer
        encoder = self._encoder(optim.dense_weight)
        videos, texts, images = self._datasets(self._train, encoder, self._may_lose)
        share = self._image_share(len(videos), len(texts), len(images))
        place = Place(
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            done_batches=trainer.global_step * optim.accumulate if trainer else 0,
            warmup_batches=self.warmup_steps * optim.accumulate,
            streams=self.streams,
        )
        packing = self.config.data.packing
        collate = self._collate(encoder, pad_to=packing.max_tokens if packing.enabled else 0)
        return training_batches(self.config, Source(videos, texts, images, share, collate, self._loader), place)

    def val_dataloader(self) -> DataLoader:
        assert self._eval is not None
        encoder, batch_size = self._encoder(0.0), self.config.optim.batch_size
        kinds = self._datasets(self._eval, encoder, None)
        everything: ConcatDataset[Any] = ConcatDataset(kinds)
        ends = [0, *everything.cumulative_sizes]
        batches = [
            list(range(first, min(first + batch_size, end)))
            for start, end in pairwise(ends)
            for first in range(start, end, batch_size)
        ]
        self.num_eval_batches = len(batches)
        own = share_out(batches, self.trainer.global_rank, self.trainer.world_size) if self.trainer else batches
        return self._loader(everything, batch_sampler=own, collate_fn=self._collate(encoder))

    def _image_share(self, num_videos: int, num_texts: int, num_images: int) -> float:
        if not num_videos and self.warmup_steps:
            raise ValueError("The scorer's warm-up needs videos, and the data have none: aux.scorer_warmup_steps=0.")
        if not num_images:
            return 0.0
        share = self.config.data.image_share
        if share is None:
            share = num_images / (num_videos + num_texts + num_images)
        if share < 1 and not num_videos + num_texts:
            raise ValueError(f"data.image_share={share}, but the training data have images alone: leave it null.")
        return share

    def _encoder(self, dense_weight: float) -> Encoder:
        backbone = self.config.backbone
        side = -(-backbone.image_size // backbone.patch_size // backbone.window)
        return Encoder(self.tokenizer, side, self.config.data.max_text_tokens, dense_weight)

    def _datasets(
        self, records: Records, encoder: Encoder, may_lose: float | None
    ) -> tuple[VideoQuestions, TextQuestions, ImageQuestions]:
        backbone, data = self.config.backbone, self.config.data
        videos = VideoQuestions(
            records.clips,
            encoder,
            self.config.video,
            backbone,
            data.questions_per_clip,
            data.frame_cache_mib,
            data.frame_cache_dir,
            may_lose,
        )
        texts = TextQuestions(records.texts, encoder, data.questions_per_clip, may_lose)
        images = ImageQuestions(records.images, encoder, self.config.image, backbone, data.questions_per_clip, may_lose)
        return videos, texts, images

    def _collate(self, encoder: Encoder, pad_to: int = 0) -> Collate:
        return Collate(self.tokenizer.pad_token_id or 0, encoder.placeholder_id, self.config.backbone, pad_to)

    def _loader(self, dataset: Dataset, **how: Any) -> DataLoader:
        workers = self.config.data.num_workers
        return DataLoader(
            dataset,
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
        for pixels, patches in (("frames", "pixel_values_videos"), ("crops", "pixel_values")):
            if pixels in batch:
                batch[patches] = frames_to_patches(batch.pop(pixels), self.config.backbone.patch_size)
        return batch


def evaluation_images(config: Config) -> list[ImageRecord]:
    """The image questions that are held out: of ``data.eval`` or ``data.train``, or else of the embedded image set.

    Raises:
        ValueError: the files have none, or some that cannot be used.
    """
    data = config.data
    if data.train is None and data.eval is None:
        return _strict(read_records(generated_images(data.generated_images, data.generated.root).test)).images
    records = _strict(read_records(data.eval or data.train))
    images = records.images if data.eval else hold_out_images(records, data.eval_fraction)[1]
    if not images:
        raise ValueError(f"{data.eval or data.train} has no image questions: lines with `images` instead of `video`.")
    return images


def _strict(records: Records) -> Records:
    if records.problems:
        listed = list_problems(records.problems)
        raise ValueError(f"{len(records.problems)} evaluation questions cannot be used:\n  {listed}")
    return records


def _merged(lists: list[list[Problem]]) -> list[Problem]:
    """Each problem once: several workers, epochs and processes meet the same."""
    known: dict[str, Problem] = {}
    for problem in chain(*lists):
        known.setdefault(problem.where, problem)
    return list(known.values())
