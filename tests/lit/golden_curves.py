"""Loss curves at a fixed seed: `python tests/lit/golden_curves.py` writes them to golden_curves.json anew.

That is for a change that is meant to move them, and the commit says why it is.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from stts_lightning.config import load_config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.lit.callbacks import AuxLossSchedule, DrawnPercent, MethodProgress
from stts_lightning.lit.module import STTSModule
from stts_lightning.molmo2.load import load_backbone

GOLDEN = Path(__file__).with_suffix(".json")
PACKED = ("data.packing.enabled=true", "data.packing.max_tokens=900", "data.packing.max_frames=24")
CURVES = {
    "none": ("prune.method=none", "prune.percent=0"),
    "random": ("method=random",),
    "heuristic": ("method=heuristic",),
    "stts": ("method=stts",),
    "stts_saliency": ("method=stts_saliency", "prune.percent=80"),
    "stts_distill": ("method=stts_distill",),
    "stts of any k": ("method=stts", "prune.percent_range=[30,80]"),
    "stts packed": ("method=stts", *PACKED, "data.packing.buffer=4", "optim.accumulate=2"),
    "stts packed by what is kept": ("method=stts", *PACKED, "data.packing.buffer=4", "data.packing.count=kept"),
}
SMALL = (
    "data.generated.train_videos=12", "data.generated.eval_videos=2", "optim.steps=8", "optim.batch_size=2",
    "optim.warmup_steps=2", "aux.scorer_warmup_steps=3", "seed=3",
)  # fmt: skip


class Losses(pl.Callback):
    """The loss of every batch, and the auxiliary one where there is one."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        aux = trainer.callback_metrics.get("train/aux_loss")
        self.rows.append([float(outputs["loss"]), *([] if aux is None else [float(aux)])])


def curve(overrides: tuple[str, ...], root: Path) -> list[list[float]]:
    """Loss and auxiliary loss of every batch, the scorer's warm-up first."""
    config = load_config([*SMALL, f"data.generated.root={root}", f"data.frame_cache_dir={root}/frames", *overrides])
    torch.set_num_threads(1)  # several add up in another order, and AdamW's first steps make much of that
    pl.seed_everything(config.seed, verbose=False)
    backbone = load_backbone(config.backbone)
    module, losses = STTSModule(config, backbone), Losses()
    watchers = [AuxLossSchedule(config.aux), DrawnPercent(config.prune, config.seed), MethodProgress(), losses]
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=config.optim.steps + module.warmup_steps, logger=False, callbacks=watchers,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        use_distributed_sampler=False,
        accumulate_grad_batches=config.optim.accumulate,
    )  # fmt: skip
    trainer.fit(module, datamodule=VideoQuestionData(config, backbone.tokenizer, module.warmup_steps))
    return losses.rows


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        curves = {name: curve(overrides, Path(folder)) for name, overrides in CURVES.items()}
    lines = [f'"{name}": {json.dumps(rows)}' for name, rows in curves.items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
