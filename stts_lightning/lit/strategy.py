"""How the processes of a training share model and optimizer out among themselves."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.plugins.precision.deepspeed import DeepSpeedPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from stts_lightning.config import TrainerConfig


def build_strategy(settings: TrainerConfig) -> str | Strategy:
    """What Lightning's Trainer takes as ``strategy``."""
    if settings.strategy.startswith("zero"):
        return ZeRO(int(settings.strategy[-1]), settings.precision, settings.offload)
    if settings.strategy == "fsdp2":
        return ModelParallelStrategy(data_parallel_size=settings.devices * settings.num_nodes, tensor_parallel_size=1)
    if settings.strategy == "ddp" or settings.devices * settings.num_nodes > 1:
        # Unused are the scorer in a batch of images, and all but the scorer in its warm-up.
        return DDPStrategy(find_unused_parameters=True, gradient_as_bucket_view=True)
    return "auto"


def shares_out_gradients(settings: TrainerConfig) -> bool:
    """Whether the optimizer sees a part of each group's gradients, as flat tensors that know of no parameters."""
    return settings.strategy.startswith("zero")


class ZeRO(DeepSpeedStrategy):
    """DeepSpeed's ZeRO (arXiv 1910.02054): ``stage`` 1 shares out the optimizer, 2 the gradients too, 3 the
    weights too.

    It runs on a CPU as well, over gloo, which Lightning's own refuses: slow, and good for trying a configuration out.
    """

    def __init__(self, stage: int, precision: str, offload: bool) -> None:
        if not torch.cuda.is_available():
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks once, when it is imported
        zero: dict[str, Any] = {"stage": stage}
        if offload:
            zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        if stage == 3:
            # Gradients are clipped by group, whose norm must be known when its first parameter moves: one part a group.
            zero |= {"sub_group_size": 10**12, "stage3_gather_16bit_weights_on_model_save": False}
            if offload:
                zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        config: dict[str, Any] = {
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW runs on the CPU too, and needs no compiler
            "gradient_clipping": 0.0,  # by `STTSModule`, each group by itself
        }
        if precision != "32-true":
            config["data_types"] = {"grad_accum_dtype": "fp32"}
        super().__init__(config=config, precision_plugin=_AsGiven(precision))  # type: ignore[arg-type]

    @property
    def root_device(self) -> torch.device:
        if isinstance(self.accelerator, CPUAccelerator):
            return torch.device("cpu", 0)  # DeepSpeed asks for its number
        return super().root_device

    def setup_environment(self) -> None:
        if isinstance(self.accelerator, CPUAccelerator):
            DDPStrategy.setup_environment(self)
        else:
            super().setup_environment()

    def setup_distributed(self) -> None:
        if isinstance(self.accelerator, CPUAccelerator):
            import deepspeed

            deepspeed.ops.__compatible_ops__ = {}  # else one that speeds collectives up is compiled first, for minutes
            DDPStrategy.setup_distributed(self)
            deepspeed.init_distributed("gloo", dist_init_required=False)
        else:
            super().setup_distributed()

    def init_deepspeed(self) -> None:
        super().init_deepspeed()
        module = self.lightning_module
        assert module is not None
        for part in module.modules():  # for evaluation all hooks were removed, also those by which transformers listens
            if hasattr(part, "_output_capturing_hooks_installed"):
                del part._output_capturing_hooks_installed
        if self.zero_stage_3:
            import deepspeed

            # Read without a call of the module that owns it, so nothing else would gather it.
            positions = module.model.model.vision_tower.positional_embedding
            deepspeed.zero.register_external_parameter(module, positions)


class _AsGiven(DeepSpeedPrecision):
    """The batch stays as it is, for the model casts pixels by itself and the weights of the loss have to be exact.
    And so does the loss: Lightning has divided it by the number of micro-batches, which DeepSpeed would do again."""

    def convert_input(self, data: Any) -> Any:
        return data

    def backward(self, tensor: Tensor, model: Any, optimizer: Any, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        super().backward(tensor, model, optimizer, *args, scale_wrt_gas=False, **kwargs)


def shard(module: pl.LightningModule, mesh: Any, precision: str) -> None:
    """FSDP2: each block of the ViT and of the language model is gathered where it runs, all else with the step.

    Computed in bfloat16 where ``precision`` has it, from float32 weights; gradients are added up in float32.
    """
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    if isinstance(module, FSDPModule):
        return
    dtype = torch.bfloat16 if precision == "bf16-mixed" else None
    policy = MixedPrecisionPolicy(dtype, reduce_dtype=dtype and torch.float32, cast_forward_inputs=False)
    inner = module.model.model
    for block in [*inner.vision_tower.layers, *inner.language_model.layers]:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    for step in ("training_step", "validation_step"):
        register_fsdp_forward_method(module, step)


def clip_norm_(parameters: list[nn.Parameter], clip: float, shared_out: bool) -> Tensor:
    """Scale the gradients to a norm of at most ``clip``, in place; ``shared_out``: each process has a part of them.

    Returns:
        the norm before, 0-dim.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if shared_out:
        square = norm.square()
        torch.distributed.all_reduce(square)
        norm = square.sqrt()
    torch.nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    return norm


class IdleGroups:
    """Hooks around an optimizer's step: groups that nothing was learned for stay where they are.

    Without gradients AdamW leaves parameters alone. ZeRO gives them gradients of 0, upon which it would go on with
    their momentum: the scorer after a step of images, and all but the scorer in its warm-up.
    """

    def __init__(self, learning: Callable[[], set[str]]) -> None:
        self.learning = learning
        self._aside: list[tuple[nn.Parameter, Tensor | None]] = []

    def set_aside(self, optimizer: Optimizer, *_: Any) -> None:
        idle = [group for group in optimizer.param_groups if group["name"] not in self.learning()]
        self._aside = [(parameter, parameter.grad) for group in idle for parameter in group["params"]]
        for parameter, _ in self._aside:
            parameter.grad = None

    def put_back(self, *_: Any) -> None:
        for parameter, gradient in self._aside:
            parameter.grad = gradient
        self._aside = []
