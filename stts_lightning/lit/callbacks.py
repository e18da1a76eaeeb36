"""What is watched while a run goes on."""

from __future__ import annotations

import resource
import statistics
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from stts_lightning.config import AuxConfig, PruneConfig
from stts_lightning.data.scene import CONTENTS
from stts_lightning.lit.schedule import aux_weight_at, percent_at
from stts_lightning.processes import gather
from stts_lightning.runs import write_progress


class AuxLossSchedule(pl.Callback):
    """Sets the weight of the auxiliary loss before every step (paper 3.4: constant)."""

    def __init__(self, aux: AuxConfig) -> None:
        self.aux = aux
        self.peak: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.peak = pl_module.aux_weight

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        assert self.peak is not None
        step = trainer.global_step - pl_module.warmup_steps
        pl_module.aux_weight = aux_weight_at(step, self.aux, self.peak)


class MethodProgress(pl.Callback):
    """Tells a scorer that has ``set_progress`` before every step which share of the training is over, and says after it
    what it learned from the use of its windows."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        scorer = pl_module.handle.scorer
        if hasattr(scorer, "set_progress"):
            step = trainer.global_step - pl_module.warmup_steps
            scorer.set_progress(max(step, 0) / pl_module.config.optim.steps)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pruning = outputs["pruning"]
        if pruning is not None and pruning.listwise is not None:
            pl_module.log("train/listwise_loss", pruning.listwise.value)


class DrawnPercent(pl.Callback):
    """Draws k for every training step where ``prune.percent_range`` asks for it; evaluates at ``prune.percent``."""

    def __init__(self, prune: PruneConfig, seed: int) -> None:
        self.prune, self.seed = prune, seed

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.prune.percent_range:
            pl_module.handle.percent = percent_at(trainer.global_step, self.prune.percent_range, self.seed)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if self.prune.percent_range:
            pl_module.handle.percent = self.prune.percent


class KeptShares(pl.Callback):
    """How much is kept of what the windows of generated clips show, frame 0 aside, as it always stays."""

    def __init__(self) -> None:
        self.counts = torch.zeros(2, len(CONTENTS), dtype=torch.long)  # kept, and all

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.counts.zero_()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if outputs is None or outputs.pruning is None or "contents" not in batch:
            return
        frames = [len(keep) for keep in outputs.pruning.keep]
        for keep_FW, contents_FW in zip(outputs.pruning.keep, batch["contents"].split(frames), strict=True):
            shown, kept = contents_FW[1:].flatten().cpu(), keep_FW[1:].flatten().cpu()
            self.counts += torch.stack([x.bincount(minlength=len(CONTENTS)) for x in (shown[kept], shown)])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.counts = torch.stack(gather(self.counts)).sum(0)

    @property
    def shares(self) -> dict[str, float]:
        """By kind of window; those that no clip shows are left out."""
        kept, all_of_it = self.counts.tolist()
        return {name: k / n for name, k, n in zip(CONTENTS, kept, all_of_it, strict=True) if n}


class CountProblems(pl.Callback):
    """Hands what a worker could not read to the data module, which stops the run past its budget. Several processes
    tell each other whenever metrics are logged, and at the end, so that all of them stop."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch["skipped"]:
            trainer.datamodule.note_problems(batch["skipped"])
        if batch["skipped"] if trainer.world_size == 1 else batch_idx % trainer.log_every_n_steps == 0:
            trainer.datamodule.share_problems()

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trainer.datamodule.share_problems()


class StreamProgress(pl.Callback):
    """Tells the data module where its packed streams stand after every batch, and logs how full their sequences are."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if "streams" not in batch:
            return
        trainer.datamodule.streams = batch["streams"]
        if trainer.global_step % trainer.log_every_n_steps == 0:
            for name, value in batch["packing"].items():
                pl_module.log(f"data/{name}", value)


class KeptTokens(pl.Callback):
    """Logs the vision tokens of a clip that reach the language model, and the packed rows of the ViT."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pruning = outputs["pruning"]
        if pruning is None or trainer.global_step % trainer.log_every_n_steps:
            return
        kept = pruning.kept_tokens
        pl_module.log("prune/kept_tokens", sum(kept) / len(kept))
        pl_module.log("prune/packed_rows", float(pruning.packed_rows))


class Throughput(pl.Callback):
    """Clips and language-model tokens a second: medians over the steps, the first ``warmup`` dropped.

    A step is timed from the end of the one before it, so waiting for data counts; the scorer's warm-up and
    everything outside training does not. On a GPU the ends are events in its queue, read when somebody asks:
    no step waits for them.
    """

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.steps: list[tuple[Any, Any]] = []  # the ends of one step and of the next
        self.samples = 0
        self.tokens: list[int] = []
        self._last: Any = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        last, self._last = self._last, None
        if outputs["pruning"] is None:
            return
        self._last = _mark(pl_module.device)
        if last is not None:
            self.steps.append((last, self._last))
            self.tokens.append(sum(outputs["pruning"].prompt_lengths))
            self.samples = len(batch["sources"])

    @property
    def seconds(self) -> list[float]:
        return [_seconds_between(*step) for step in self.steps]

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: Any) -> None:
        self._last = None  # the step in which a checkpoint is written is not timed

    @property
    def samples_per_second(self) -> float | None:
        kept = self.seconds[self.warmup :]
        return self.samples / statistics.median(kept) if kept else None

    @property
    def tokens_per_second(self) -> float | None:
        kept = self.seconds[self.warmup :]
        return statistics.mean(self.tokens[self.warmup :]) / statistics.median(kept) if kept else None


def _mark(device: torch.device) -> Any:
    """A point in time that costs no waiting."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds_between(start: Any, end: Any) -> float:
    if isinstance(start, float):
        return float(end - start)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000


def peak_memory_gib() -> float:
    """Peak of the GPU's allocated memory, or without one of the process's resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux counts in KiB


class RunProgress(pl.Callback):
    """Writes what the run is at and how long it will take, for the sweep to read.

    The first ``settle`` steps, which wait for files and warm up, do not count for the pace.
    """

    def __init__(self, run_dir: Path, phase: str, every_s: float = 2.0, settle: int = 10) -> None:
        self.run_dir = run_dir
        self.phase = phase
        self.every_s = every_s
        self.settle = settle
        self._written = self._settled_at = 0.0
        self._settled_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._settled_step = trainer.global_step + self.settle

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        now, step, steps = time.monotonic(), trainer.global_step, trainer.max_steps
        if step <= self._settled_step:
            self._settled_at = now
        if now - self._written < self.every_s or not trainer.is_global_zero:
            return
        self._written = now
        counted = step - self._settled_step
        left = (now - self._settled_at) / counted * (steps - step) if counted > self.settle else None
        write_progress(self.run_dir, self.phase, step, steps, left)


class Decisions(pl.Callback):
    """Keeps frames, scores and keep-masks of the first evaluation clips, for contact sheets."""

    def __init__(self, num_clips: int = 4) -> None:
        self.num_clips = num_clips
        self.clips: list[dict[str, Any]] = []

    def on_validation_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.clips = []  # of an earlier evaluation

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if outputs is None or outputs.pruning is None:  # images: nothing was decided
            return
        side = pl_module.config.backbone.image_size // pl_module.config.backbone.patch_size
        patches = batch["pixel_values_videos"].split([frames for frames, _, _ in batch["video_grids"]])
        for i, video in enumerate(batch["sources"]):
            if len(self.clips) >= self.num_clips:
                return
            self.clips.append(
                {
                    "frames": patches_to_pixels(patches[i], side),
                    "scores": outputs.pruning.scores[i].float().cpu().numpy(),
                    "keep": outputs.pruning.keep[i].cpu().numpy(),
                    "times": np.asarray(batch["times"][i]),
                    "video": video,
                }
            )

    def save(self, path: Path) -> None:
        """One padded array a key; ``num_frames`` says how many frames of each clip are real. No clips, no file."""
        if not self.clips:
            return
        longest = max(len(clip["times"]) for clip in self.clips)

        def padded(name: str) -> np.ndarray:
            rows = [clip[name] for clip in self.clips]
            return np.stack([np.pad(r, [(0, longest - len(r))] + [(0, 0)] * (r.ndim - 1)) for r in rows])

        np.savez_compressed(
            path,
            **{name: padded(name) for name in ("frames", "scores", "keep", "times")},
            num_frames=[len(clip["times"]) for clip in self.clips],
            videos=[clip["video"] for clip in self.clips],
        )


def patches_to_pixels(patches_FNC: torch.Tensor, side: int) -> np.ndarray:
    """Normalised patches back to (F, S, S, 3) uint8 pictures."""
    patch = int((patches_FNC.shape[-1] // 3) ** 0.5)
    x = patches_FNC.float().cpu().view(-1, side, side, patch, patch, 3).transpose(2, 3)
    pixels = x.reshape(len(patches_FNC), side * patch, side * patch, 3) * 0.5 + 0.5
    return (pixels * 255).round().clamp(0, 255).byte().numpy()
