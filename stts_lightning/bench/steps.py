"""The things that are timed: a train step, a prefill and a decode, of the stock model and of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from stts_lightning.prune.registry import Host, build_scorer

DECODED = 16  # tokens
METHODS = ("none", "random", "heuristic", "stts", "stts_saliency")  # side by side in one table


class Bench:
    """One model of random weights on one device, and what can be run on it.

    A run's name is ``stock``, on a GPU also ``stock_sdpa`` (see `entered`), or ours at a percentage: ``0``, ``30``. At
    0 nothing scores; else the STTS scorer does, unless another method is named.
    """

    def __init__(self, size: str, device: torch.device, *, compiled: bool = False, checkpointing: str = "none") -> None:
        torch.manual_seed(0)
        torch._dynamo.config.recompile_limit = 64  # every shape of the tables is compiled, none falls back
        self.size, self.device = size, device
        attention = attention_by_part("auto", device.type)
        self.model = random_molmo2(size, dtype=torch.float32, device=device, attention=attention)
        self.handle = apply_stts(self.model, PruneConfig(percent=50, layer=LAYERS[size]))
        self.scorer = self.handle.scorer
        self.scorers = nn.ModuleDict({method: _scorer(self.model, method) for method in METHODS})
        self.scorers["stts"] = self.scorer
        self.scorers.to(device)
        speed_up(self.model, BackboneConfig(activation_checkpointing=checkpointing, compile=compiled))
        weights = {id(p): p for part in (self.model, self.scorers) for p in part.parameters()}
        self.optimizer = AdamW(weights.values(), lr=1e-6, fused=True)
        self.batches: dict[tuple, dict[str, Any]] = {}
        self.stock_runs = ["stock", "stock_sdpa"] if device.type == "cuda" else ["stock"]
        self.runs = [*self.stock_runs, "0", "30", "40", "50"]

    def autocast(self) -> torch.autocast:
        """bfloat16 on a GPU: trained with weights in float32, as `bf16-mixed` does."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")

    def to_inference(self) -> None:
        """The weights in bfloat16 on a GPU, as they are served; there is no training after this."""
        del self.optimizer
        if self.device.type == "cuda":
            self.model.bfloat16()
            self.scorer.bfloat16()
            torch.cuda.empty_cache()

    def batch(self, shape: Shape, *, training: bool, ours: bool) -> dict[str, Any]:
        key = (shape, training, ours)
        if key not in self.batches:
            self.batches[key] = make_batch(shape, self.model.config, self.device, training=training, ours=ours)
        return self.batches[key]

    def set_run(self, name: str, layout: str = "flat", method: str = "stts") -> None:
        """Ours at a percentage; `stock` is entered by the runs themselves."""
        percent = 0.0 if name.startswith("stock") else float(name)
        method = method if percent else "none"
        self.model.model.prune_config = PruneConfig(
            method=method, percent=percent, layer=LAYERS[self.size], layout=layout
        )
        self.model.model.vision_tower.token_scorer = self.scorers[method]

    def train_step(self, name: str, shape: Shape, layout: str = "flat", method: str = "stts") -> Callable[[], None]:
        """Forward, backward, clipping and AdamW."""
        batch = self.batch(shape, training=True, ours=not name.startswith("stock"))

        def run() -> None:
            self.set_run(name, layout, method)
            self.model.train()
            self._train(name, batch)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()

        return run

    def prefill(self, name: str, shape: Shape) -> Callable[[], None]:
        """The first forward pass of generation: the cache is filled, one logit a prompt is made."""
        batch = self.batch(shape, training=False, ours=not name.startswith("stock"))

        @torch.no_grad()
        def run() -> None:
            self.set_run(name)
            self.model.eval()
            with self.entered(name) as model:
                model(**batch, use_cache=True, logits_to_keep=1)

        return run

    def generate(self, name: str, shape: Shape, tokens: int = DECODED) -> Callable[[], None]:
        """A prefill and ``tokens`` greedy tokens, of which the prefill gives the first."""
        batch = {k: v for k, v in self.batch(shape, training=False, ours=not name.startswith("stock")).items()}
        batch.pop("prompt_counts", None)
        how = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}

        def run() -> None:
            self.set_run(name)
            self.model.eval()
            with self.entered(name) as model:
                model.generate(**batch, **how)

        return run

    @contextmanager
    def entered(self, name: str) -> Iterator[Any]:
        """The model as a run wants it: transformers' own for the stock ones, and for `stock_sdpa` without
        FlexAttention."""
        if not name.startswith("stock"):
            yield self.model
            return
        text = self.model.model.language_model.config
        attention = text._attn_implementation
        with self.handle.as_stock() as stock:
            text._attn_implementation = "sdpa" if name == "stock_sdpa" else attention
            try:
                yield stock
            finally:
                text._attn_implementation = attention

    def _train(self, name: str, batch: dict[str, Any]) -> None:
        with self.entered(name) as model, self.autocast():
            out = model(**batch, use_cache=False)
        loss, pruning = out.loss, getattr(out, "pruning", None)
        if pruning is not None and pruning.aux_loss is not None:
            loss = loss + pruning.aux_loss
        if pruning is not None and pruning.listwise is not None:
            loss = loss + pruning.listwise.loss
        loss.backward()


def _scorer(model: Any, method: str) -> nn.Module:
    vision = model.config.vision_config
    return build_scorer(method, Host(vision.hidden_size, vision.num_attention_heads))
