"""A model folder of what an unfinished training has saved last."""

from __future__ import annotations

from pathlib import Path

from stts_lightning.config import read_config
from stts_lightning.lit.checkpoints import newest_sealed
from stts_lightning.lit.weights import read_checkpoint
from stts_lightning.molmo2.checkpoint import save_pruned
from stts_lightning.molmo2.load import load_backbone
from stts_lightning.molmo2.patch import apply_stts
from stts_lightning.runs import RunDir


def convert(run_dir: Path, out: Path | None = None) -> Path:
    """Write the newest whole checkpoint of a run as a model folder, in one process, however many wrote it.

    Args:
        out: the folder; ``model-step=N`` in the run's by default.

    Raises:
        ValueError: the run has no checkpoint that is whole, or one of another model.
    """
    run = RunDir(run_dir)
    config = read_config(run.config)
    checkpoint = newest_sealed(run.checkpoints)
    if checkpoint is None:
        raise ValueError(
            f"{run.checkpoints} has no checkpoint: the run has written none yet, or is finished and its model in "
            f"{run.model}."
        )
    backbone = load_backbone(config.backbone, config.init_from, "cpu")
    handle = apply_stts(backbone.model, config.prune)
    read_checkpoint(checkpoint, handle.model)
    out = out or run.path / f"model-{checkpoint.stem}"
    save_pruned(handle, backbone.tokenizer, out)
    return out
