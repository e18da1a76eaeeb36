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
from stts_lightning.metrics.answers import Prediction, read_answers
from stts_lightning.molmo2.load import Backbone
from stts_lightning.molmo2.patch import PrunedOutput, PruneHandle, apply_stts
from stts_lightning.molmo2.speed import speed_up
from stts_lightning.molmo2.teacher import window_use
from stts_lightning.molmo2.vision import read_by_scorer
from stts_lightning.prune.presets import PRESETS
from stts_lightning.prune.types import Windows

MODEL_INPUTS = (
    "input_ids", "attention_mask", "position_ids", "mm_token_type_ids", "subsegment_ids",
    "pixel_values_videos", "video_token_pooling", "video_grids", "video_relevance", "prompt_counts", "sequence_length",
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
        self.predictions: list[Prediction] = []
        self.curve: list[list[float]] = []  # step and accuracy of every evaluation
        self.kept_tokens = MeanMetric()
        self.grad_norms: list[Tensor] = []  # of the last step, a number a group, before they were clipped

    def forward(self, batch: dict[str, Any], **extra: Any) -> PrunedOutput:
        return self.model(**{name: batch[name] for name in MODEL_INPUTS if name in batch}, use_cache=False, **extra)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        if self.global_step < self.warmup_steps:
            return self._scorer_step(batch)
        out = self(
            batch,
            labels=batch["labels"],
            loss_weights=batch["loss_weights"],
            loss_divisor=self._loss_divisor(batch["step_loss_weight"]),
        )
        loss = out.loss
        self.log("train/task_loss", loss.detach())
        if out.pruning is None and self.trainer.world_size > 1:
            loss = loss + zero_of_unused(self.handle, batch)
        if out.pruning is not None and out.pruning.aux_loss is not None:
            loss = loss + self.aux_weight * out.pruning.aux_loss
            self.log("train/aux_loss", out.pruning.aux_loss.detach(), prog_bar=True)
            weight = loss.new_full((), self.aux_weight)  # a float would be copied to the device, and waited for
            self.log("train/aux_weight", weight)
        if out.pruning is not None and out.pruning.listwise is not None:
            loss = loss + out.pruning.listwise.loss
        if out.pruning is not None and self._teaches(self.global_step - self.warmup_steps):
            loss = loss + self._taught_loss(batch)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return {"loss": loss, "pruning": out.pruning}

    def _scorer_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        if getattr(self.handle.scorer, "frozen", False):
            return {"loss": self._taught_loss(batch), "pruning": None}
        loss = self.handle.scorer.warmup_loss(*self._read_by_scorer(batch))
        self.log("train/aux_loss", loss.detach(), prog_bar=True)
        return {"loss": loss, "pruning": None}

    def _loss_divisor(self, step_loss_weight: float) -> Tensor | None:
        """What makes the mean over processes and micro-batches the weighted mean over all answers of the step."""
        processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        parts = processes * self.config.optim.accumulate
        if parts == 1:
            return None
        weight = torch.tensor(step_loss_weight, dtype=torch.float32).to(self.device, non_blocking=True)
        if processes > 1:
            torch.distributed.all_reduce(weight)
        return weight / parts

    def _teaches(self, step: int) -> bool:
        """Whether the unpruned model teaches the scorer in this step of the training proper."""
        scorer = self.handle.scorer
        return hasattr(scorer, "teacher") and not scorer.frozen and step % scorer.every == 0

    def _taught_loss(self, batch: dict[str, Any]) -> Tensor:
        scorer = self.handle.scorer
        inputs = {name: batch[name] for name in (*MODEL_INPUTS, "labels", "loss_weights") if name in batch}
        predicted_at = [[asked.predicted_at for asked in row] for row in batch["asked"]]
        use_M = window_use(self.handle, inputs, predicted_at, scorer.teacher)
        loss: Tensor = scorer.taught_loss(*self._read_by_scorer(batch), use_M)
        self.log("train/listwise_loss", loss.detach())
        return loss

    def _read_by_scorer(self, batch: dict[str, Any]) -> tuple[Tensor, Windows]:
        videos = [batch[name] for name in ("pixel_values_videos", "video_token_pooling", "video_grids")]
        return read_by_scorer(self.model.model, self.config.prune.layer, *videos)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> PrunedOutput:
        out = self(batch)
        token_index = None if out.pruning is None else out.pruning.token_index
        self.predictions += read_answers(out.logits, token_index, batch["asked"], batch["videos"])
        whole = batch["prompt_counts"].placeholders  # of images nothing leaves
        for kept in whole if out.pruning is None else out.pruning.kept_tokens:
            self.kept_tokens.update(kept)
        return out

    def on_validation_epoch_start(self) -> None:
        self.predictions = []
        self.kept_tokens.reset()

    def on_validation_epoch_end(self) -> None:
        hits = [prediction.correct for prediction in self.predictions]
        accuracy = sum(hits) / max(len(hits), 1)
        self.curve.append([self.global_step, accuracy])
        self.log("val/accuracy", accuracy, prog_bar=True)
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
        everyone: list[Any] = [own]
        if torch.distributed.is_initialized():
            everyone = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(everyone, own)
        checkpoint["rng_states"] = everyone

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        everyone = checkpoint["rng_states"]
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        if rank < len(everyone):
            torch.set_rng_state(everyone[rank]["cpu"].cpu())
            if self.device.type == "cuda" and "cuda" in everyone[rank]:
                torch.cuda.set_rng_state(everyone[rank]["cuda"].cpu(), self.device)

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        """Global norm, for each group by itself as Molmo2 does."""
        clip = self.config.optim.clip_norm
        self.grad_norms = [torch.nn.utils.clip_grad_norm_(group["params"], clip) for group in optimizer.param_groups]


def zero_of_unused(handle: PruneHandle, batch: dict[str, Any]) -> Tensor | int:
    """0, with a gradient of 0 for all that a batch without videos leaves unused: no process may wait for it.

    Of a parameter that ZeRO's stage 3 has shared out there is nothing here to give a gradient to, and none is missed.
    """
    inner = handle.model.model
    images = batch.get("pixel_values") is not None
    parts = [handle.scorer] if images else [inner.vision_tower, inner.multi_modal_projector]
    return 0 * sum(p.sum() for part in parts for p in part.parameters() if p.numel() > 0)


def parameter_groups(module: STTSModule, lr_language: float, lr_vision: float, lr_scorer: float) -> list[dict]:
    """Three named groups (paper 4.1): language model, ViT with projector, scorer. Empty ones are left out."""
    scorer = {id(p) for p in module.handle.scorer.parameters()}
    inner = module.model.model
    vision = {id(p) for part in (inner.vision_tower, inner.multi_modal_projector) for p in part.parameters()}
    members: dict[str, list[Tensor]] = {"language": [], "vision": [], "scorer": []}
    for parameter in module.model.parameters():
        name = "scorer" if id(parameter) in scorer else "vision" if id(parameter) in vision else "language"
        members[name].append(parameter)
    rates = {"language": lr_language, "vision": lr_vision, "scorer": lr_scorer}
    return [{"name": name, "params": members[name], "lr": rates[name]} for name in members if members[name]]
