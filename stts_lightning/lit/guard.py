"""A training that has gone wrong stops, before its weights are saved."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from stts_lightning.lit.checkpoints import newest_sealed
from stts_lightning.runs import RunDir


class _Step(NamedTuple):
    number: int
    samples: list[str]
    finite: Tensor  # on the host, once `ready`
    ready: Any  # an event of the device, None without one


class StopAtNaN(pl.Callback):
    """Raises where the loss or the norm of a gradient was not finite.

    A device is asked about a step when the next one is over, so that no step waits; but before a checkpoint is written
    it is waited for.
    """

    def __init__(self, run: RunDir, every: int) -> None:
        self.run, self.every = run, every
        self._before: _Step | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        finite = outputs["loss"].detach().isfinite()
        for norm in pl_module.grad_norms.values():
            finite = finite & norm.isfinite()
        step = _Step(trainer.global_step, _names(batch), *_to_host(finite))
        self._check(self._before)
        self._before = step
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            self._check(step)

    def _check(self, step: _Step | None) -> None:
        if step is None:
            return
        if step.ready is not None:
            step.ready.synchronize()
        if not bool(step.finite):
            last = newest_sealed(self.run.checkpoints)
            kept = f"The last good checkpoint is {last}." if last else "There was no checkpoint yet."
            raise ValueError(
                f"step {step.number}: the loss or a gradient is not finite. It saw {', '.join(step.samples)}. {kept} "
                "Look at these samples, or lower the learning rates (optim.lr_*), and run it again."
            )


def _names(batch: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(map(str, batch["sources"])))


def _to_host(flag: Tensor) -> tuple[Tensor, Any]:
    if flag.device.type != "cuda":
        return flag, None
    host = torch.empty((), dtype=torch.bool, pin_memory=True).copy_(flag, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event
