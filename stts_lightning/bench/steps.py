"""The things that are timed: a train step, a prefill and a decode, of the stock model and of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from stts_lightning.bench.case import LAYERS, Shape, make_batch
from stts_lightning.config import BackboneConfig, PruneConfig
from stts_lightning.molmo2.load import attention_by_part
from stts_lightning.molmo2.patch import apply_stts
from stts_lightning.molmo2.shapes import random_molmo2
from stts_lightning.molmo2.speed import speed_up

DECODED = 16  # tokens


class Bench:
    """One model of random weights on one device, and what can be run on it.

    A run's name is ``stock``, or ours at a percentage: ``0``, ``30``. At 0 nothing scores; else the STTS scorer does.
    """

    def __init__(self, size: str, device: torch.device, *, compiled: bool = False, checkpointing: str = "none") -> None:
        torch.manual_seed(0)
        torch._dynamo.config.recompile_limit = 64  # every shape of the tables is compiled, none falls back
        self.size, self.device = size, device
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        attention = attention_by_part("auto", device.type)
        self.model = random_molmo2(size, dtype=dtype, device=device, attention=attention)
        self.handle = apply_stts(self.model, PruneConfig(percent=50, layer=LAYERS[size]))
        self.scorer = self.handle.scorer
        self.nothing = _scorer_of_none(self.model)
        speed_up(self.model, BackboneConfig(activation_checkpointing=checkpointing, compile=compiled))
        self.optimizer = AdamW(self.model.parameters(), lr=1e-6, fused=True)
        self.batches: dict[tuple, dict[str, Any]] = {}

    def batch(self, shape: Shape, *, training: bool, ours: bool) -> dict[str, Any]:
        key = (shape, training, ours)
        if key not in self.batches:
            self.batches[key] = make_batch(shape, self.model.config, self.device, training=training, ours=ours)
        return self.batches[key]

    def set_run(self, name: str, layout: str = "flat") -> None:
        """Ours at a percentage; `stock` is entered by the runs themselves."""
        percent = 0.0 if name == "stock" else float(name)
        method = "stts" if percent else "none"
        self.model.model.prune_config = PruneConfig(
            method=method, percent=percent, layer=LAYERS[self.size], layout=layout
        )
        self.model.model.vision_tower.token_scorer = self.scorer if percent else self.nothing

    def train_step(self, name: str, shape: Shape, layout: str = "flat") -> Callable[[], None]:
        """Forward, backward, clipping and AdamW."""
        batch = self.batch(shape, training=True, ours=name != "stock")

        def run() -> None:
            self.set_run(name, layout)
            self.model.train()
            self._forward(name, batch, use_cache=False, backward=True)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()

        return run

    def prefill(self, name: str, shape: Shape) -> Callable[[], None]:
        """The first forward pass of generation: the cache is filled, one logit a prompt is made."""
        batch = self.batch(shape, training=False, ours=name != "stock")

        @torch.no_grad()
        def run() -> None:
            self.set_run(name)
            self.model.eval()
            self._forward(name, batch, use_cache=True, logits_to_keep=1)

        return run

    def generate(self, name: str, shape: Shape) -> Callable[[], None]:
        """A prefill and ``DECODED`` greedy tokens."""
        batch = {k: v for k, v in self.batch(shape, training=False, ours=name != "stock").items()}
        batch.pop("prompt_counts", None)
        how = {"max_new_tokens": DECODED, "min_new_tokens": DECODED, "do_sample": False}

        def run() -> None:
            self.set_run(name)
            self.model.eval()
            if name == "stock":
                with self.handle.as_stock() as stock:
                    stock.generate(**batch, **how)
            else:
                self.model.generate(**batch, **how)

        return run

    def _forward(self, name: str, batch: dict[str, Any], backward: bool = False, **how: Any) -> None:
        if name == "stock":
            with self.handle.as_stock() as stock:
                loss = stock(**batch, **how).loss
        else:
            out = self.model(**batch, **how)
            loss = out.loss if out.pruning.aux_loss is None or not backward else out.loss + out.pruning.aux_loss
        if backward:
            loss.backward()


def _scorer_of_none(model: Any) -> nn.Module:
    from stts_lightning.prune.scorers import build_scorer

    vision = model.config.vision_config
    return build_scorer("none", vision.hidden_size, vision.num_attention_heads, "paper", 0)
