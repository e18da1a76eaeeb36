"""What stays in memory from step to step, by strategy: arithmetic on numbers of parameters.

ZeRO's paper (Rajbhandari et al., arXiv 1910.02054, figure 1) counts for each parameter 2 bytes of weights, 2 of
gradients and K = 12 of optimizer: a float32 copy and AdamW's two moments. Its stages 1, 2 and 3 divide the optimizer,
also the gradients, also the weights by the number of GPUs. DeepSpeed in bf16 holds the same, and what this file adds:
buffers of a fixed size for communication, gathered weights, and with offloading what lies on the host.
"""

from __future__ import annotations

from dataclasses import dataclass

from stts_lightning.config import TrainerConfig

ADAMW_MOMENTS = 2
MASTER = 4  # bytes of a weight in float32
STAGES = {"zero1": 1, "zero2": 2, "zero3": 3}
# Lightning's DeepSpeedStrategy: reduce_bucket_size, and overlap_comm, which takes a second bucket in stages 1 and 2
# (deepspeed/runtime/zero/stage_1_and_2.py, setup_buckets). They are taken whole, however small the model.
BUCKET, BUCKETS = 200_000_000, {1: 2, 2: 2, 3: 1}
# deepspeed/runtime/zero/config.py: max_live_parameters and max_reuse_distance. So many gathered weights stay.
MAX_LIVE = 1_000_000_000


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


def computes_in(trainer: TrainerConfig) -> str:
    """`float32`, `bfloat16` or `autocast`: weights and residual stream in float32, products in bfloat16.

    DeepSpeed takes `bf16-mixed` as weights in bfloat16 with a float32 copy in the optimizer, and no autocast
    (lightning/fabric/strategies/deepspeed.py, _format_precision_config).
    """
    if trainer.precision == "32-true":
        return "float32"
    whole = trainer.precision == "bf16-true" or strategy_of(trainer) in STAGES
    return "bfloat16" if whole else "autocast"


def training_state(parameters: Parameters, trainer: TrainerConfig, accumulate: int = 1) -> State:
    """What each GPU holds between two steps, gradients included, for AdamW on all parameters."""
    strategy, count = strategy_of(trainer), parameters.total
    gpus = trainer.devices * trainer.num_nodes
    width = 2 if computes_in(trainer) == "bfloat16" else 4
    if strategy in STAGES:
        return _deepspeed(count, gpus, trainer, width, accumulate)
    part = count / gpus if strategy == "fsdp2" else count
    buffers = 0.0
    if strategy == "ddp":  # gradient_as_bucket_view is False where nobody asks: the buckets are a second copy
        buffers = width * count
    elif strategy == "fsdp2":
        # What is in no block is one unit, gathered from the forward pass to the end of the backward pass, and so are
        # its gradients; of the blocks there is one in use and the next one on its way.
        buffers = width * (2 * parameters.outside + 2 * parameters.block)
    return State(
        weights=width * part, gradients=width * part, master=0, moments=ADAMW_MOMENTS * width * part, buffers=buffers
    )


def _deepspeed(count: int, gpus: int, trainer: TrainerConfig, width: int, accumulate: int) -> State:
    """Gradients are kept in the weights' type: `grad_accum_dtype` is that where data_types says nothing
    (deepspeed/runtime/engine.py, get_data_types)."""
    stage, part = STAGES[strategy_of(trainer)], count / gpus
    weights = width * (part if stage == 3 else count)
    gradients = width * (part if stage >= 2 else count)
    master, moments = MASTER * part, ADAMW_MOMENTS * MASTER * part
    buffers = float(BUCKETS[stage] * BUCKET * width)
    if stage == 3:
        buffers += width * min(count, MAX_LIVE)
    if not trainer.offload:
        return State(weights, gradients, master, moments, buffers)
    # The optimizer, its float32 gradients and a copy of the weights in their type (stage 2: to send them back with;
    # stage 3: the weights themselves), and the gradients that are accumulated: stage 3 has that buffer always.
    kept = gradients if stage == 3 or accumulate > 1 else 0
    host = trainer.devices * (master + moments + MASTER * part + width * part + kept)
    return State(0 if stage == 3 else weights, 0, 0, 0, buffers, host)
