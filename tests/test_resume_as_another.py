"""A run is resumed as what it was, or not at all; what differs is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stts_lightning.cli import main
from stts_lightning.config import Config, load_config, read_config, save_config
from stts_lightning.lit.checkpoints import check_made_by, seal
from stts_lightning.runs import RunDir
from stts_lightning.train import made_by

SMALL = [
    "tracking.enabled=false", "trainer.accelerator=cpu", "trainer.progress=false", "pretrain.enabled=false",
    "data.generated.train_videos=4", "data.generated.eval_videos=2", "data.frame_cache_dir=null",
]  # fmt: skip
CHANGES = {
    "prune.percent=40": "prune.percent: 50.0 != 40.0",
    "trainer.devices=2": "trainer.devices: 1 != 2",
    "trainer.precision=bf16-mixed": "trainer.precision: 32-true != bf16-mixed",
    "optim.lr_scorer=1": "optim.lr_scorer: 0.003 != 1.0",
    "optim.accumulate=2": "optim.accumulate: 1 != 2",
    "seed=4": "seed: 0 != 4",
    "data.packing.enabled=true": "data.packing.enabled: False != True",
}


def config_of(folder: Path, *changes: str) -> Config:
    return load_config([*SMALL, f"data.generated.root={folder / 'set'}", *changes])


@pytest.fixture
def killed(tmp_path: Path) -> RunDir:
    """The folder of a run that has left a checkpoint and no result."""
    run, config = RunDir(tmp_path / "run"), config_of(tmp_path)
    run.checkpoints.mkdir(parents=True)
    save_config(config, run.config)
    torch.save({}, run.checkpoints / "step=1.ckpt")
    seal(run.checkpoints / "step=1.ckpt", made_by(config))
    return run


@pytest.mark.parametrize("change", CHANGES)
def test_another_command_is_refused(killed: RunDir, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    where = [*SMALL, f"data.generated.root={killed.path.parent / 'set'}"]
    assert main(["train", "--run-dir", str(killed.path), *where, change]) == 2
    said = capsys.readouterr().err
    assert f"another run, which differs in {CHANGES[change]}. Name a new --run-dir" in said
    assert read_config(killed.config) == config_of(killed.path.parent)


@pytest.mark.parametrize("change", CHANGES)
def test_a_configuration_that_somebody_changed_is_refused(
    killed: RunDir, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(config_of(killed.path.parent, change), killed.config)
    assert main(["train", "--run-dir", str(killed.path)]) == 2
    said = capsys.readouterr().err
    assert "step=1.ckpt was written by another run" in said and CHANGES[change] in said and "init_from" in said
    assert (killed.checkpoints / "step=1.ckpt").exists() and not killed.result.exists()


def test_what_changes_no_number_may_change(killed: RunDir, tmp_path: Path) -> None:
    changed = config_of(tmp_path, "trainer.num_threads=2", "data.num_workers=0", "tracking.uri=http://elsewhere")
    check_made_by(killed.checkpoints / "step=1.ckpt", made_by(changed))
    with pytest.raises(ValueError, match="seed: 0 != 1"):
        check_made_by(killed.checkpoints / "step=1.ckpt", made_by(config_of(tmp_path, "seed=1")))
