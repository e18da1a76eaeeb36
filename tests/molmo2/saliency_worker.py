"""One process of a training that is shared out: a backward pass a kind of batch, and the gradients that come of it."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from saliency_reference import SALIENCY, Inputs, loss_to_differentiate
from torch import Tensor, nn
from transformers import Molmo2ForConditionalGeneration

from stts_lightning import apply_stts
from stts_lightning.molmo2.patch import PruneHandle

PROCESSES = 2
PATIENCE = 60  # seconds that a process waits for the other's part before it raises
Found = dict[str, Tensor]


class Step(nn.Module):
    """Batch to loss in one call, as Lightning's strategies wrap a module's ``training_step``."""

    def __init__(self, handle: PruneHandle) -> None:
        super().__init__()
        self.model, self.handle = handle.model, handle

    def forward(self, batch: Inputs) -> Tensor:
        return loss_to_differentiate(self.model(**batch), self.handle, batch, PROCESSES)


def full(gradient: Any) -> Tensor:
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


def gathered(model: nn.Module, whole: Callable[[nn.Parameter], Tensor | None]) -> Found:
    found = {name: whole(p) for name, p in model.named_parameters()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def ddp(handle: PruneHandle, batch: Inputs, kind: str) -> Found:
    """Without a look for unused parameters, all of which must then have a gradient, unless there is only text."""
    net = nn.parallel.DistributedDataParallel(Step(handle), find_unused_parameters=kind == "text")
    net(batch).backward()
    return gathered(handle.model, lambda p: p.grad)


def fsdp2(handle: PruneHandle, batch: Inputs, kind: str) -> Found:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (PROCESSES,))
    model = handle.model
    units = [*model.model.language_model.layers]
    if kind == "videos":
        units += [*model.model.vision_tower.layers, handle.scorer]
    for unit in units:
        fully_shard(unit, mesh=mesh)
    step = Step(handle)
    fully_shard(step, mesh=mesh)
    step(batch).backward()
    return gathered(handle.model, lambda p: None if p.grad is None else full(p.grad))


def zero(handle: PruneHandle, batch: Inputs, kind: str, stage: int) -> Found:
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


def run(strategy: str, kinds: list[str], rank: int, folder: Path) -> None:
    """Leaves ``strategy-kind-rank.pt`` of each kind that it gets through, and ``strategy-rank.log``."""
    log = open(folder / f"{strategy}-{rank}.log", "w", buffering=1)  # noqa: SIM115 - it lives as long as the process
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    faulthandler.dump_traceback_later(PATIENCE)  # tells where it hangs
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(PROCESSES))
    torch.set_num_threads(1)
    meeting = f"file://{folder / f'{strategy}.meeting'}"  # no port that another process could take
    dist.init_process_group("gloo", meeting, timedelta(seconds=PATIENCE), PROCESSES, rank)
    for kind in kinds:
        print(kind)
        made_of = torch.load(folder / "model.pt", weights_only=False)
        model = Molmo2ForConditionalGeneration(made_of["config"])
        model.load_state_dict(made_of["weights"])
        handle = apply_stts(model.eval(), SALIENCY)
        batch = torch.load(folder / f"{kind}-{rank}.pt")
        if strategy.startswith("zero"):
            found = zero(handle, batch, kind, int(strategy[-1]))
        else:
            found = {"ddp": ddp, "fsdp2": fsdp2}[strategy](handle, batch, kind)
        torch.save(found, folder / f"{strategy}-{kind}-{rank}.pt")
        dist.barrier()
    dist.destroy_process_group()
