"""Checkpoints that can be trusted: sealed once they are whole, and only sealed ones are taken up."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from stts_lightning.runs import write_json

SEAL = ".sha256"  # after a checkpoint's own name: the digest of each of its files


class SealedCheckpoints(ModelCheckpoint):
    """The newest two checkpoints of a run, one every so many optimizer steps.

    A name is written once and the seal is written last, aside and moved into place: whatever is cut short leaves a
    checkpoint without a seal, and the one before it in peace.
    """

    def __init__(self, folder: Path, every: int, made_by: Mapping[str, Any] | None = None) -> None:
        # At the end of an epoch too: it would leave the last step to an evaluation, for what it monitors may change.
        super().__init__(
            folder,
            "{step}",
            monitor="step",
            mode="max",
            save_top_k=2,
            every_n_train_steps=every,
            save_on_train_epoch_end=True,
        )
        self.made_by = dict(made_by or {})

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Between the micro-batches of a step there is nothing to save: their gradients would be lost. A run that has
        # been taken up would, for its callback has forgotten that this step is saved.
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if trainer.is_global_zero:
            seal(Path(filepath), self.made_by)
        trainer.strategy.barrier()

    def _remove_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        if trainer.is_global_zero:
            _seal_of(Path(filepath)).unlink(missing_ok=True)  # first: half a checkpoint is never sealed
        super()._remove_checkpoint(trainer, filepath)


def seal(checkpoint: Path, made_by: Mapping[str, Any] | None = None) -> None:
    """Write the digests of a checkpoint, a file or a folder, beside it, and the settings that made it."""
    for path in _files(checkpoint):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_json(_seal_of(checkpoint), {"made_by": dict(made_by or {}), "files": _digests(checkpoint)})


def newest_sealed(folder: Path, say: Callable[[str], None] = print) -> Path | None:
    """The newest checkpoint of ``folder`` that is as it was sealed, or None where there is none.

    What is newer and is not is named and removed: the run will write those steps again.
    """
    found = sorted((path for path in folder.glob("step=*.ckpt")), key=_step, reverse=True)
    for path in found:
        wrong = _what_is_wrong(path)
        if wrong is None:
            return path
        say(f"{path}: {wrong}. It is removed, and the run goes on from the checkpoint before it, if there is one.")
        _seal_of(path).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return None


def check_made_by(checkpoint: Path, now: Mapping[str, Any]) -> None:
    """Raise ValueError where the settings that made ``checkpoint`` are not those of the run ``now``; names each."""
    then = json.loads(_seal_of(checkpoint).read_text(encoding="utf-8"))["made_by"]
    same = json.loads(json.dumps(now))
    changed = [
        f"{key}: {then.get(key)} != {same.get(key)}" for key in sorted({*then, *same}) if then.get(key) != same.get(key)
    ]
    if changed:
        raise ValueError(
            f"{checkpoint} was written by another run, which differs in {', '.join(changed)}. Resume it as it was, or "
            "make a model of it, `python -m stts_lightning convert`, and start a run of its own from that: init_from."
        )


def _what_is_wrong(checkpoint: Path) -> str | None:
    try:
        sealed = json.loads(_seal_of(checkpoint).read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return "it was never finished: the run was stopped while it was written"
    except (ValueError, KeyError, TypeError):
        return "its seal is damaged"
    found = _digests(checkpoint)
    if sealed == found:
        return None
    changed = sorted(name for name in {*sealed, *found} if sealed.get(name) != found.get(name))
    return f"not as it was written: {', '.join(changed)}"


def _digests(checkpoint: Path) -> dict[str, str]:
    digests = {}
    for path in _files(checkpoint):
        with path.open("rb") as file:
            digests[str(path.relative_to(checkpoint.parent))] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def _files(checkpoint: Path) -> Iterator[Path]:
    if checkpoint.is_file():
        yield checkpoint
    else:
        yield from sorted(path for path in checkpoint.rglob("*") if path.is_file())


def _seal_of(checkpoint: Path) -> Path:
    return checkpoint.with_name(checkpoint.name + SEAL)


def _step(path: Path) -> int:
    found = re.match(r"step=(\d+)", path.name)
    assert found is not None
    return int(found.group(1))
