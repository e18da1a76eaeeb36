"""The command line, with a signal that the process sends itself in the middle of a step.

``python interrupted.py KILL 7 train ...``: when micro-batch 7, counted from 0, has been through the model.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from stts_lightning.cli import main
from stts_lightning.lit.module import STTSModule


def interrupt(name: str, micro_batch: int) -> None:
    real = STTSModule.training_step

    def training_step(self: STTSModule, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        out = real(self, batch, batch_idx)
        if self.trainer.fit_loop.epoch_loop.total_batch_idx == micro_batch:
            os.kill(os.getpid(), getattr(signal, f"SIG{name}"))
        return out

    STTSModule.training_step = training_step  # type: ignore[method-assign]


if __name__ == "__main__":
    interrupt(sys.argv[1], int(sys.argv[2]))
    sys.exit(main(sys.argv[3:]))
