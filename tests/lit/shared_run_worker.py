"""A whole run, evaluation and all, in processes that share the model out; its checkpoints stay."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from processes import PROCESSES

import stts_lightning.train as training
from stts_lightning.config import Config, load_config, save_config
from stts_lightning.lit.module import STTSModule


def config_for(strategy: str, data: Path, processes: int) -> Config:
    return load_config(
        [
            "trainer.accelerator=cpu", f"trainer.strategy={strategy}", f"trainer.devices={processes}",
            "trainer.progress=false", "trainer.checkpoint_every=2", "tracking.enabled=false", "pretrain.enabled=false",
            "data=files", f"data.train={data}", f"data.eval={data}", "data.num_workers=0", "data.questions_per_clip=2",
            f"data.frame_cache_dir={data.parent / 'frames'}", "data.image_share=0.4",
            f"optim.batch_size={4 // processes}", "optim.steps=5", "optim.eps=1e-4", "optim.warmup_steps=2",
            "aux.scorer_warmup_steps=1",
        ]
    )  # fmt: skip


class TiedAndFrozen(STTSModule):
    """Two weights of the scorer are one, and the patches' embedding is not trained."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        pooler = self.handle.scorer.patch_token_pooler
        pooler.wo.weight = pooler.wq.weight
        self.model.model.vision_tower.patch_embedding.requires_grad_(False)


def whole_run(strategy: str, data: Path, run_dir: Path, processes: int) -> None:
    config = config_for(strategy, data, processes)
    run_dir.mkdir(exist_ok=True)
    save_config(config, run_dir / "config.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "STTSModule", TiedAndFrozen)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        training.train(config, run_dir)


def work(rank: int, strategy: str, data: Path, folder: Path) -> None:
    whole_run(strategy, data, folder / strategy, PROCESSES)
