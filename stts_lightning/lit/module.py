"""The LightningModule: a pruned Molmo2, its losses and its three learning rates."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from stts_lightning.config import Config, as_dict
from stts_lightning.lit.schedule import cosine_with_warmup, warmup_steps
from stts_lightning.lit.strategy import IdleGroups, clip_norm_, shard, shares_out_gradients
from stts_lightning.metrics.answers import Prediction, read_answers
from stts_lightning.molmo2.load import Backbone
from stts_lightning.molmo2.patch import PrunedOutput, PruneHandle, apply_stts
from stts_lightning.molmo2.speed import speed_up
from stts_lightning.molmo2.teacher import window_use
from stts_lightning.molmo2.vision import read_by_scorer, score_blank
from stts_lightning.processes import gather, gather_shares, rank, world_size
from stts_lightning.prune.presets import PRESETS
from stts_lightning.prune.types import Windows

MODEL_INPUTS = (
    "input_ids", "attention_mask", "position_ids", "mm_token_type_ids", "subsegment_ids",
    "pixel_values_videos", "video_token_pooling", "video_grids", "video_relevance", "blank_video",
    "prompt_counts", "sequence_length",
    "pixel_values", "image_token_pooling", "image_grids", "image_num_crops",
)  # fmt: skip


class STTSModule(pl.LightningModule):
    """Task loss on the answer tokens plus the weighted auxiliary loss (paper 3.4).

    ``aux_weight`` is set by the `AuxLossSchedule` callback. For the first ``scorer_warmup_steps`` steps the
    scorer learns from the auxiliary loss alone, everything else frozen. Pass ``handle`` for a model that is
    pruned already.
    """

    def __init__(self, config: Config, backbone: Backbone, handle: PruneHandle | None = None) -> None:
        super().__init__()
        self.save_hyperparameters({"config": as_dict(config)})  # plain containers: torch.load trusts no others
        self.config = config
        self.model = backbone.model
        self.handle = handle or apply_stts(self.model, config.prune)
        speed_up(self.model, config.backbone)
        self.warmup_steps = warmup_steps(config.aux, getattr(self.handle.scorer, "warmup_loss", None) is not None)
        preset = PRESETS[config.prune.preset]
        self.aux_weight = preset.aux_weight if config.aux.weight is None else config.aux.weight
        self.predictions: list[Prediction] = []  # of the last evaluation, by all processes
        self._answered: list[list[Prediction]] = []  # by this one, a batch each
        self.curve: list[list[float]] = []  # step and accuracy of every evaluation
        self.kept_tokens = MeanMetric()
        self._learning: set[str] = set()  # groups that something is learned for in this step
        self.grad_norms: dict[str, Tensor] = {}  # of the last step, by group, before it was clipped

    def forward(self, batch: dict[str, Any], **extra: Any) -> PrunedOutput:
        return self.model(**{name: batch[name] for name in MODEL_INPUTS if name in batch}, use_cache=False, **extra)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        divisor, video_share = self._shares_of_step(batch)
        warming_up = self.global_step < self.warmup_steps
        self._note_learning(batch, batch_idx, warming_up)
        if warming_up:
            return self._scorer_step(batch, video_share)
        out = self(batch, labels=batch["labels"], loss_weights=batch["loss_weights"], loss_divisor=divisor)
        loss = out.loss
        self.log("train/task_loss", loss.detach())
        if batch.get("pixel_values") is not None and shares_out_gradients(self.config.trainer):
            # ZeRO's stage 3 adds the gradient of a later micro-batch to that of the step before, unless the first
            # micro-batch brings one.
            loss = loss + score_blank(self.model.model, self.handle.scorer, self.config.backbone.window)
        if out.pruning is not None and out.pruning.aux_loss is not None:
            loss = loss + self.aux_weight * video_share * out.pruning.aux_loss
            self.log("train/aux_loss", out.pruning.aux_loss.detach(), prog_bar=True)
            weight = loss.new_full((), self.aux_weight)  # a float would be copied to the device, and waited for
            self.log("train/aux_weight", weight)
        if out.pruning is not None and out.pruning.listwise is not None:
            loss = loss + video_share * out.pruning.listwise.loss
        if batch.get("pixel_values") is None and self._teaches():
            loss = loss + video_share * self._taught_loss(batch)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return {"loss": loss, "pruning": out.pruning}

    def _scorer_step(self, batch: dict[str, Any], video_share: Tensor | float) -> dict[str, Any]:
        if getattr(self.handle.scorer, "frozen", False):
            return {"loss": video_share * self._taught_loss(batch), "pruning": None}
        loss = self.handle.scorer.warmup_loss(*self._read_by_scorer(batch))
        self.log("train/aux_loss", loss.detach(), prog_bar=True)
        return {"loss": video_share * loss, "pruning": None}

    def _note_learning(self, batch: dict[str, Any], batch_idx: int, warming_up: bool) -> None:
        if batch_idx % self.config.optim.accumulate == 0:
            self._learning = set()
        self._learning |= set() if warming_up else {"language", "vision"}
        between_lessons = hasattr(self.handle.scorer, "teacher") and not warming_up and not self._teaches()
        self._learning |= set() if between_lessons or batch.get("pixel_values") is not None else {"scorer"}

    def _shares_of_step(self, batch: dict[str, Any]) -> tuple[Tensor | None, Tensor | float]:
        """What makes the mean over processes and micro-batches the mean over all answers, and over all videos, of the
        step: the divisor of the task loss, and the factor of the losses that are means over videos."""
        parts = world_size() * self.config.optim.accumulate
        if parts == 1:
            return None, 1.0
        totals = torch.tensor(batch["step_totals"], dtype=torch.float32).to(self.device, non_blocking=True)
        if world_size() > 1:
            torch.distributed.all_reduce(totals)
        return totals[0] / parts, batch["num_videos"] * parts / totals[1].clamp(min=1)

    def _teaches(self) -> bool:
        """Whether the unpruned model teaches the scorer in this step, which is of the training proper."""
        scorer, step = self.handle.scorer, self.global_step - self.warmup_steps
        return hasattr(scorer, "teacher") and not scorer.frozen and step % scorer.every == 0

    def _taught_loss(self, batch: dict[str, Any]) -> Tensor:
        scorer = self.handle.scorer
        if batch.get("blank_video"):  # a gradient of 0, for processes that share gradients out wait for it
            use_M = batch["loss_weights"].new_ones(len(batch["video_token_pooling"]))
            return 0 * scorer.taught_loss(*self._read_by_scorer(batch), use_M)
        inputs = {name: batch[name] for name in (*MODEL_INPUTS, "labels", "loss_weights") if name in batch}
        predicted_at = [[asked.predicted_at for asked in row] for row in batch["asked"]]
        use_M = window_use(self.handle, inputs, predicted_at, scorer.teacher)
        loss: Tensor = scorer.taught_loss(*self._read_by_scorer(batch), use_M)
        self.log("train/listwise_loss", loss.detach())
        return loss

    def _read_by_scorer(self, batch: dict[str, Any]) -> tuple[Tensor, Windows]:
        videos = [batch[name] for name in ("pixel_values_videos", "video_token_pooling", "video_grids")]
        return read_by_scorer(self.model.model, self.config.prune.layer, *videos)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> PrunedOutput | None:
        out = self(batch)
        token_index = None if out.pruning is None else out.pruning.token_index
        self._answered.append(read_answers(out.logits, token_index, batch["asked"], batch["sources"]))
        if batch_idx * world_size() + rank() >= self.trainer.datamodule.num_eval_batches:
            return None  # it is here so that all processes have as many, and another one has it too
        if "blank_video" not in batch:  # texts have none to count
            whole = batch["prompt_counts"].placeholders  # of images nothing leaves
            for kept in whole if out.pruning is None else out.pruning.kept_tokens:
                self.kept_tokens.update(kept)
        return out

    def on_validation_epoch_start(self) -> None:
        self._answered = []
        self.kept_tokens.reset()

    def on_validation_epoch_end(self) -> None:
        batches = gather_shares(self._answered, self.trainer.datamodule.num_eval_batches)
        self.predictions = [prediction for batch in batches for prediction in batch]
        hits = [prediction.correct for prediction in self.predictions]
        accuracy = sum(hits) / max(len(hits), 1)
        self.curve.append([self.global_step, accuracy])
        # The same in all processes.
        self.log("val/accuracy", accuracy, prog_bar=True, rank_zero_only=True)
        self.log("prune/kept_tokens", self.kept_tokens.compute())

    def configure_optimizers(self) -> Any:
        optim = self.config.optim
        optimizer = AdamW(
            parameter_groups(self, optim.lr_language, optim.lr_vision, optim.lr_scorer),
            betas=(optim.betas[0], optim.betas[1]),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            fused=True,
        )
        if shares_out_gradients(self.config.trainer):  # it steps where no hook of Lightning's comes by
            optimizer.register_step_pre_hook(lambda optimizer, *_: self._clip(optimizer))
            idle = IdleGroups(lambda: self._learning)
            optimizer.register_step_pre_hook(idle.set_aside)
            optimizer.register_step_post_hook(idle.put_back)

        def share(step: int) -> float:  # the scorer's warm-up runs at the peak, before the schedule begins
            return 1.0 if step < self.warmup_steps else cosine_with_warmup(step - self.warmup_steps, optim)

        def share_of_scorer(step: int) -> float:  # one that its warm-up has taught for good stays as it is
            frozen = getattr(self.handle.scorer, "frozen", False) and step >= self.warmup_steps
            return 0.0 if frozen else share(step)

        shares = [share_of_scorer if group["name"] == "scorer" else share for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, shares), "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """With the state of the generators of every process: what `random` and noise draw after a resume."""
        own = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint["rng_states"] = gather(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        everyone = checkpoint["rng_states"]
        if rank() < len(everyone):
            own = everyone[rank()]
            torch.set_rng_state(own["cpu"].cpu())
            if self.device.type == "cuda" and "cuda" in own:
                torch.cuda.set_rng_state(own["cuda"].cpu(), self.device)

    def configure_model(self) -> None:
        if self.config.trainer.strategy == "fsdp2":
            shard(self, self.device_mesh["data_parallel"], self.config.trainer.precision)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        if not shares_out_gradients(self.config.trainer):
            self._clip(optimizer)

    def _clip(self, optimizer: Any) -> None:
        """To a norm of ``optim.clip_norm``, each group by itself as Molmo2 does."""
        shared_out = shares_out_gradients(self.config.trainer)
        for group in optimizer.param_groups:
            if not group["params"]:  # ZeRO-3 steps on one group at a time and empties the others
                continue
            self.grad_norms[group["name"]] = clip_norm_(group["params"], self.config.optim.clip_norm, shared_out)


def parameter_groups(module: STTSModule, lr_language: float, lr_vision: float, lr_scorer: float) -> list[dict]:
    """Three named groups (paper 4.1): language model, ViT with projector, scorer. Empty ones are left out."""
    scorer = {id(p) for p in module.handle.scorer.parameters()}
    inner = module.model.model
    vision = {id(p) for part in (inner.vision_tower, inner.multi_modal_projector) for p in part.parameters()}
    members: dict[str, list[Tensor]] = {"language": [], "vision": [], "scorer": []}
    for parameter in filter(lambda parameter: parameter.requires_grad, module.model.parameters()):
        name = "scorer" if id(parameter) in scorer else "vision" if id(parameter) in vision else "language"
        members[name].append(parameter)
    rates = {"language": lr_language, "vision": lr_vision, "scorer": lr_scorer}
    return [{"name": name, "params": members[name], "lr": rates[name]} for name in members if members[name]]
