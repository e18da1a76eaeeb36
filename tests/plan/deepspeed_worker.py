"""One of two processes that train a few layers under DeepSpeed's ZeRO; says what it holds between two micro-batches.

    python deepspeed_worker.py STAGE RANK PORT

The settings are those of `lit/strategy.py`. Prints the sizes of all storages of floating-point numbers.
"""

from __future__ import annotations

import gc
import os
import sys

import torch

WIDTH, LAYERS, PROCESSES = 64, 8, 2


def main(stage: int, rank: int, port: str) -> None:
    os.environ |= {"DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    torch.set_num_threads(1)
    import deepspeed

    deepspeed.ops.__compatible_ops__ = {}  # else one that speeds collectives up is compiled first, for minutes
    torch.distributed.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    deepspeed.init_distributed("gloo", dist_init_required=False)
    model = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)])
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 2,
            "bf16": {"enabled": True},
            "data_types": {"grad_accum_dtype": "fp32"},
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        },
    )
    for half in range(3):  # a step, and the first half of another one
        loss = engine(torch.randn(2, WIDTH, dtype=torch.bfloat16)).float().pow(2).sum()
        engine.backward(loss)
        if half < 2:
            engine.step()
    gc.collect()
    held = (x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.is_floating_point())
    storages = [x.untyped_storage() for x in held if x.device.type != "meta"]  # where shapes are remembered
    print("held", *{storage._cdata: storage.nbytes() for storage in storages}.values(), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
