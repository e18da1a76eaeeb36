"""One process of a training that is shared out: a backward pass a kind of batch, and the gradients that come of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from processes import PROCESSES
from saliency_reference import SALIENCY, Inputs, loss_to_differentiate
from torch import Tensor, nn
from transformers import Molmo2ForConditionalGeneration

from stts_lightning import apply_stts
from stts_lightning.molmo2.patch import PruneHandle

Found = dict[str, Tensor]


class Step(nn.Module):
    """Batch to loss in one call, as Lightning's strategies wrap a module's ``training_step``."""

    def __init__(self, handle: PruneHandle) -> None:
        super().__init__()
        self.model, self.handle = handle.model, handle

    def forward(self, batch: Inputs) -> Tensor:
        return loss_to_differentiate(self.model(**batch))


def full(gradient: Any) -> Tensor:
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def gathered(model: nn.Module, whole: Callable[[nn.Parameter], Tensor | None]) -> Found:
    found = {name: whole(p) for name, p in model.named_parameters()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def ddp(handle: PruneHandle, batch: Inputs) -> Found:
    net = nn.parallel.DistributedDataParallel(Step(handle), find_unused_parameters=True)
    net(batch).backward()
    return gathered(handle.model, lambda p: p.grad)


def fsdp2(handle: PruneHandle, batch: Inputs) -> Found:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (PROCESSES,))
    model = handle.model
    for unit in [*model.model.language_model.layers, *model.model.vision_tower.layers]:
        fully_shard(unit, mesh=mesh)
    step = Step(handle)
    fully_shard(step, mesh=mesh)
    step(batch).backward()
    return gathered(handle.model, lambda p: None if p.grad is None else full(p.grad))


def zero(handle: PruneHandle, batch: Inputs, stage: int) -> Found:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    deepspeed.ops.__compatible_ops__ = {}  # else one that speeds collectives up is compiled first, for minutes
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
    }
    step = Step(handle)
    optimizer = torch.optim.SGD(step.parameters(), lr=1.0)
    engine, *_ = deepspeed.initialize(model=step, optimizer=optimizer, config=config)
    engine.backward(engine(batch))
    return gathered(handle.model, safe_get_full_grad)


def run(rank: int, strategy: str, kinds: list[str], folder: Path) -> None:
    """Leaves ``strategy-kind-rank.pt`` of each kind that it gets through."""
    for kind in kinds:
        print(kind)
        made_of = torch.load(folder / "model.pt", weights_only=False)
        model = Molmo2ForConditionalGeneration(made_of["config"])
        model.load_state_dict(made_of["weights"])
        handle = apply_stts(model.eval(), SALIENCY)
        batch = torch.load(folder / f"{kind}-{rank}.pt")
        if strategy.startswith("zero"):
            found = zero(handle, batch, int(strategy[-1]))
        else:
            found = {"ddp": ddp, "fsdp2": fsdp2}[strategy](handle, batch)
        torch.save(found, folder / f"{strategy}-{kind}-{rank}.pt")
        dist.barrier()
