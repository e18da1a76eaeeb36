"""What stays in memory from step to step, by strategy: arithmetic on numbers of parameters.

ZeRO's paper (Rajbhandari et al., arXiv 1910.02054, figure 1) counts for each parameter 2 bytes of weights, 2 of
gradients and K = 12 of optimizer: a float32 copy and AdamW's two moments. Its stages 1, 2 and 3 divide the optimizer,
also the gradients, also the weights by the number of GPUs. What differs here: gradients add up in float32, there are
buffers for communication and gathered weights, and with offloading the host holds what the GPUs do not. The settings
that decide it are those of `lit/strategy.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from stts_lightning.config import TrainerConfig

ADAMW_MOMENTS = 2
FLOAT32 = 4  # bytes: of the optimizer's copy of weights that are used in bfloat16, and of gradients as they add up
STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}
# DeepSpeed's defaults (deepspeed/runtime/zero/config.py). reduce_bucket_size: the bucket is taken whole, however small
# the model. max_live_parameters and max_reuse_distance: so many gathered weights stay.
BUCKET, MAX_LIVE = 500_000_000, 1_000_000_000


class Compute(NamedTuple):
    """Bytes of a weight as the model's products meet it, and whether autocast is on around them."""

    width: int
    autocast: bool


@dataclass(frozen=True)
class Parameters:
    """How many there are, by group; ``block`` is the largest block's, ``outside`` are in no block."""

    language: int
    vision: int
    scorer: int
    block: int
    outside: int

    @property
    def total(self) -> int:
        return self.language + self.vision + self.scorer


@dataclass(frozen=True)
class State:
    """Bytes on each GPU, and on the host of a node.

    ``buffers``: what communication needs beside it, gathered weights included.
    """

    weights: float
    gradients: float
    master: float  # the float32 copy of weights that are used in bfloat16
    moments: float
    buffers: float
    host: float = 0.0

    @property
    def on_gpu(self) -> float:
        return self.weights + self.gradients + self.master + self.moments + self.buffers


def strategy_of(trainer: TrainerConfig) -> str:
    """`auto` as Lightning takes it: `single` for one process, else `ddp`."""
    if trainer.strategy != "auto":
        return trainer.strategy
    return "ddp" if trainer.devices * trainer.num_nodes > 1 else "single"


def computes_in(trainer: TrainerConfig) -> Compute:
    """DeepSpeed takes `bf16-mixed` as weights in bfloat16 with a float32 copy in the optimizer, and no autocast
    (lightning/fabric/strategies/deepspeed.py, _format_precision_config). FSDP2 gathers float32 weights in bfloat16,
    and Lightning's autocast is on around them; elsewhere it makes the copies in bfloat16 itself."""
    if trainer.precision == "32-true":
        return Compute(4, False)
    strategy = strategy_of(trainer)
    if trainer.precision == "bf16-true" or strategy in STAGES:
        return Compute(2, False)
    return Compute(2 if strategy == "fsdp2" else 4, True)


def training_state(parameters: Parameters, trainer: TrainerConfig, accumulate: int = 1) -> State:
    """What each GPU holds between two micro-batches, gradients included, for AdamW on all parameters."""
    strategy, count = strategy_of(trainer), parameters.total
    gpus = trainer.devices * trainer.num_nodes
    if strategy in STAGES:
        return _deepspeed(count, gpus, trainer, accumulate)
    width = 2 if trainer.precision == "bf16-true" else 4
    part, buffers = (count / gpus, 0.0) if strategy == "fsdp2" else (count, 0.0)
    if strategy == "fsdp2":
        # What is in no block is one unit, gathered from the forward pass to the end of the backward pass, and so are
        # its gradients; of the blocks there is one in use and the next one on its way.
        buffers = computes_in(trainer).width * (2.0 * parameters.outside + 2.0 * parameters.block)
    return State(width * part, width * part, master=0, moments=ADAMW_MOMENTS * width * part, buffers=buffers)


def _deepspeed(count: int, gpus: int, trainer: TrainerConfig, accumulate: int) -> State:
    """With `data_types.grad_accum_dtype=fp32`, which the paper has not: its 2 bytes of gradients are 4 here.

    Stage 1 is then another class, which keeps them whole, beside those in bfloat16 that the backward pass leaves
    (deepspeed/runtime/engine.py, _do_optimizer_sanity_check; bf16_optimizer.py, _setup_for_real_optimizer). Stages 2
    and 3 keep their part (zero/stage_1_and_2.py, _build_compact_grad_partition_buffer; zero/stage3.py,
    grad_partitions_flat_buffer).
    """
    stage, part = STAGES[strategy_of(trainer)], count / gpus
    width = computes_in(trainer).width
    weights = width * (part if stage == 3 else count)
    gradients = FLOAT32 * (part if stage >= 2 else count) + (width * count if stage == 1 and width == 2 else 0)
    master, moments = FLOAT32 * part, ADAMW_MOMENTS * FLOAT32 * part
    buffers = float(width * BUCKET) if stage >= 2 or width == 4 else 0.0
    if stage == 3:
        buffers += width * min(count, MAX_LIVE)
    if not trainer.offload:
        return State(weights, gradients, master, moments, buffers)
    # The optimizer, its float32 gradients, a copy of the weights in their type (stage 2: to send them back with; stage
    # 3: the weights themselves), and the gradients that are accumulated: a second buffer, in stage 3 always.
    kept = (FLOAT32 if stage == 3 else width) * part if stage == 3 or accumulate > 1 else 0
    host = trainer.devices * (master + moments + FLOAT32 * part + width * part + kept)
    return State(0 if stage == 3 else weights, 0, 0, 0, buffers, host)
