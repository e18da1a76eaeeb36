"""What two processes really hold under DeepSpeed is what the arithmetic says."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from deepspeed_worker import LAYERS, PROCESSES, WIDTH

from stts_lightning.config import TrainerConfig
from stts_lightning.plan.state import BUCKET, Parameters, training_state

WORKER = Path(__file__).with_name("deepspeed_worker.py")
SMALL = 1024  # bytes: the last input, a loss


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_holds_what_is_planned(stage):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    commands = [[sys.executable, str(WORKER), str(stage), str(rank), port] for rank in range(PROCESSES)]
    workers = [subprocess.Popen(c, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for c in commands]
    try:
        said = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    count = LAYERS * WIDTH**2
    trainer = TrainerConfig(devices=PROCESSES, strategy=f"zero{stage}", precision="bf16-mixed")
    state = training_state(Parameters(count, 0, 0, block=0, outside=0), trainer, accumulate=2)
    for lines in said:
        held = [line for line in lines.splitlines() if line.startswith("held ")]
        assert held, lines[-3000:]
        sizes = [int(size) for size in held[0].split()[1:]]
        assert sizes.count(2 * BUCKET) == (stage == 3)  # stage 2 gives its own back between micro-batches
        kept = sum(size for size in sizes if SMALL < size != 2 * BUCKET)
        assert kept == state.weights + state.gradients + state.master + state.moments
