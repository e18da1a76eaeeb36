"""A short training in one process or in one of several, and what it learned in every step."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from processes import PROCESSES
from torch import Tensor

from stts_lightning.config import load_config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.lit.module import STTSModule
from stts_lightning.molmo2.load import load_backbone
from stts_lightning.train import build_trainer

STEPS = 10
CLIPS = 4  # of a micro-batch, by all processes together
OPTIONS = {
    # Each process draws noise of its own, which one process cannot repeat.
    "stts_saliency": ["prune.options.noise=0", "prune.options.noise_floor=0"],
    "stts_distill": ["prune.options.frozen=false", "prune.options.every=2"],
}


class Case(NamedTuple):
    accumulate: int
    precision: str
    method: str = "stts"
    warmup: int = 0

    @property
    def name(self) -> str:
        return f"{self.method}-{self.precision}-accumulate{self.accumulate}-warmup{self.warmup}"


class Recorded(STTSModule):
    """Keeps the loss of every micro-batch, what it was of, and the gradients of every optimizer step."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.losses: list[float] = []
        self.kinds: list[str] = []
        self.norms: list[dict[str, float]] = []
        self.gradients: list[dict[str, Tensor]] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        out = super().training_step(batch, batch_idx)
        self.losses.append(float(out["loss"].detach()))
        kind = "images" if "pixel_values" in batch else "text" if batch.get("blank_video") else "videos"
        self.kinds.append(kind)
        return out

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if len(self.losses) % self.config.optim.accumulate == 0:  # ZeRO comes by with every micro-batch
            self.gradients.append(dict(whole_gradients(self)))

    def on_train_batch_end(self, *_: Any) -> None:
        if len(self.losses) % self.config.optim.accumulate == 0:
            self.norms.append({name: float(norm) for name, norm in self.grad_norms.items()})


def whole_gradients(module: STTSModule) -> Iterable[tuple[str, Tensor]]:
    for name, parameter in module.model.named_parameters():
        if module.config.trainer.strategy.startswith("zero"):
            from deepspeed.utils import safe_get_full_grad

            gradient = safe_get_full_grad(parameter)
        else:
            gradient = parameter.grad
            gradient = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
        if gradient is not None:
            yield name, gradient.detach().float().clone()


def learn(strategy: str, case: Case, data: Path, processes: int) -> dict[str, Any]:
    """Train for ten steps; the same clips in every step, however many processes share them out."""
    config = load_config(
        [
            "trainer.accelerator=cpu",
            f"trainer.strategy={strategy}",
            f"trainer.devices={processes}",
            f"trainer.precision={case.precision}",
            "trainer.progress=false",
            f"method={case.method}",
            "data=files",
            f"data.train={data}",
            f"data.eval={data}",
            "data.image_share=0.3",
            "data.num_workers=0",
            "data.questions_per_clip=2",
            f"data.frame_cache_dir={data.parent / 'frames'}",
            f"optim.batch_size={CLIPS // processes}",
            f"optim.accumulate={case.accumulate}",
            f"optim.steps={STEPS}",
            "optim.warmup_steps=2",
            "optim.eps=1e-4",  # else AdamW makes steps of full length of what differs in the last bit
            f"aux.scorer_warmup_steps={case.warmup}",
            *OPTIONS.get(case.method, []),
        ]
    )
    pl.seed_everything(0, verbose=False)
    backbone = load_backbone(config.backbone, None, "cpu")
    module = Recorded(config, backbone)
    trainer = build_trainer(config, module, [], False)
    if strategy == "zero3":  # all of it is shared out, also what is small
        trainer.strategy.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    trainer.fit(module, datamodule=VideoQuestionData(config, backbone.tokenizer, module.warmup_steps))
    return {"losses": module.losses, "kinds": module.kinds, "norms": module.norms, "gradients": module.gradients}


def work(rank: int, strategy: str, cases: list[Case], data: Path, folder: Path) -> None:
    """Leaves ``strategy-case-rank.pt`` of each case that it gets through."""
    for case in cases:
        print(case.name)
        torch.save(learn(strategy, case, data, PROCESSES), folder / f"{strategy}-{case.name}-{rank}.pt")
