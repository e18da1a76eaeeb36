"""A NaN stops the run, names its step and samples, and leaves the last good checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stts_lightning.config import Config, load_config
from stts_lightning.lit import module as lit_module
from stts_lightning.lit.checkpoints import newest_sealed
from stts_lightning.lit.module import STTSModule
from stts_lightning.runs import RunDir
from stts_lightning.train import train


def config_for(root: Path) -> Config:
    return load_config(
        ["data.generated.train_videos=6", "data.generated.eval_videos=1", f"data.generated.root={root / 'set'}",
         "optim.batch_size=2", "optim.steps=8", f"data.frame_cache_dir={root / 'frames'}", "tracking.enabled=false",
         "trainer.progress=false", "pretrain.enabled=false", "aux.scorer_warmup_steps=0", "trainer.accelerator=cpu",
         "trainer.checkpoint_every=2", "prune.percent=50"]
    )  # fmt: skip


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_nan_ends_the_run_before_anything_bad_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """In the fourth step, whose weights would be saved."""
    real, seen = STTSModule.training_step, []

    def poisoned(self: STTSModule, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        out = real(self, batch, batch_idx)
        seen.append(batch["sources"])
        if self.global_step == 3:
            if where == "loss":
                return {**out, "loss": out["loss"] * torch.nan}
            first = next(self.handle.scorer.parameters())
            return {**out, "loss": out["loss"] + (first * 0).sum().sqrt()}  # 0, with a gradient of 0 * infinity
        return out

    monkeypatch.setattr(lit_module.STTSModule, "training_step", poisoned)
    run = RunDir(tmp_path / "run")
    with pytest.raises(ValueError, match="step 4: the loss or a gradient is not finite") as error:
        train(config_for(tmp_path), run.path)
    assert len(seen) == 4 and all(video in str(error.value) for video in seen[3])
    last = newest_sealed(run.checkpoints)
    assert last is not None and last.name == "step=2.ckpt" and str(last) in str(error.value)
    assert not run.finished

    monkeypatch.setattr(lit_module.STTSModule, "training_step", real)
    assert train(config_for(tmp_path), run.path).num_questions == 12  # goes on from there
