"""A training step of the real model on tensors without values, and what it would hold in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stts_lightning.config import BackboneConfig, Config
from stts_lightning.lit.module import STTSModule, parameter_groups
from stts_lightning.molmo2.load import Backbone, tiny_molmo2, tiny_tokenizer
from stts_lightning.molmo2.prompt import PromptCounts
from stts_lightning.molmo2.shadow import as_on_a_gpu
from stts_lightning.molmo2.shapes import random_molmo2
from stts_lightning.plan.live import Autocast, LiveMemory
from stts_lightning.plan.state import Compute, Parameters, computes_in
from stts_lightning.plan.work import Load

META = torch.device("meta")
KNOWN = {"allenai/Molmo2-4B": "4b"}


@dataclass(frozen=True)
class Activations:
    """Bytes on a GPU. ``batch``: the inputs; ``saved``: what stands between the two passes for the backward pass;
    ``working``: how far the step goes beyond these two at its worst, gradients that are ready not counted."""

    batch: int
    saved: int
    working: int

    @property
    def total(self) -> int:
        return self.batch + self.saved + self.working


def shadow_module(config: Config) -> STTSModule:
    """The module that a run of this configuration trains, with all its weights on `meta`, in float32 where autocast
    copies them and in bfloat16 elsewhere (see `measure`).

    Raises:
        ValueError: a checkpoint whose sizes nobody here knows.
    """
    known = config.backbone.pretrained
    if known is not None and known not in KNOWN:
        raise ValueError(
            f"backbone.pretrained={known!r}: sizes are known of {', '.join(KNOWN)} and of the tiny backbone. Plan with "
            "one of these (backbone=molmo2_4b, backbone=tiny)."
        )
    dtype = torch.float32 if computes_in(config.trainer) == (4, True) else torch.bfloat16
    # Compiled blocks would be compiled for `meta`; what a compiler fuses is not known here.
    config = replace(config, backbone=replace(config.backbone, compile=False))
    with META:
        model = _tiny(config.backbone) if known is None else None
        if known is not None:
            model = random_molmo2(KNOWN[known], dtype=dtype, device=META, attention="sdpa")
        module = STTSModule(config, Backbone(model, None))  # type: ignore[arg-type]
    return module.to(dtype).train()


def _tiny(config: BackboneConfig) -> Any:
    with torch.device("cpu"):
        tokenizer = tiny_tokenizer()
    return tiny_molmo2(config, tokenizer, "sdpa")


def parameters_of(module: STTSModule) -> Parameters:
    groups = parameter_groups(module, 0.0, 0.0, 0.0)
    sizes = {group["name"]: sum(p.numel() for p in group["params"]) for group in groups}
    inner = module.model.model
    both = (*inner.vision_tower.layers, *inner.language_model.layers)
    blocks = [sum(p.numel() for p in block.parameters()) for block in both]
    return Parameters(
        language=sizes["language"],
        vision=sizes["vision"],
        scorer=sizes.get("scorer", 0),
        block=max(blocks),
        outside=sum(sizes.values()) - sum(blocks),
    )


def make_batch(load: Load, model_config: Any) -> dict[str, Any]:
    """A micro-batch as the LightningDataModule hands it over, without values."""
    vision = model_config.vision_config
    patches = (vision.image_size[0] // vision.patch_size) ** 2
    side, videos = int(load.windows**0.5), load.rows * load.samples
    shape = (load.rows, load.given)
    whole = ("input_ids", "attention_mask", "mm_token_type_ids", "position_ids", "labels", "subsegment_ids")
    placeholders = load.samples * load.clip.frames * load.windows
    return {
        **{name: torch.empty(shape, dtype=torch.long, device=META) for name in whole},
        "loss_weights": torch.empty(shape, device=META),
        "pixel_values_videos": torch.empty(load.frames, patches, 3 * vision.patch_size**2, device=META),
        "video_token_pooling": torch.empty(
            load.frames * load.windows, patches // load.windows, dtype=torch.long, device=META
        ),
        "video_grids": [(load.clip.frames, side, side)] * videos,
        "prompt_counts": PromptCounts(
            lengths=[load.samples * load.prompt] * load.rows,
            placeholders=[placeholders] * load.rows,
            labels=load.labels,
            pad_left=False,
        ),
        # Without packing this is shorter than what is left, and nothing is filled up.
        "sequence_length": load.length,
    }


def measure(module: STTSModule, load: Load, compute: Compute) -> Activations:
    """One forward and backward pass at ``load``, pruned at its percentage.

    The kernel for frames of unequal length takes no float32, so a step in float32 is measured in bfloat16 and its
    numbers counted double.
    """
    module.handle.percent = load.percent
    whole = compute.width == 4 and not compute.autocast
    memory = LiveMemory([*module.parameters(), *module.buffers()], width=4 if whole else 2)
    autocast = Autocast() if compute.autocast else None
    # Gradients that are ready belong to the state; here they live as long as it takes to make them.
    hooks = [p.register_post_accumulate_grad_hook(_drop_gradient) for p in module.parameters()]
    with as_on_a_gpu(module.handle.model), memory:
        batch = make_batch(load, module.model.config)
        inputs = memory.live
        loss = _loss_under(autocast, module, batch) if autocast else _loss(module, batch)
        saved = memory.live - inputs
        loss.backward()
        peak = memory.peak
    for hook in hooks:
        hook.remove()
    return Activations(batch=inputs, saved=saved, working=peak - saved - inputs)


def _loss(module: STTSModule, batch: dict[str, Any]) -> Tensor:
    out = module(batch, labels=batch["labels"], loss_weights=batch["loss_weights"])
    loss: Tensor = out.loss
    if out.pruning.aux_loss is not None:
        loss = loss + out.pruning.aux_loss
    if out.pruning.listwise is not None:
        loss = loss + out.pruning.listwise.loss
    return loss


def _loss_under(autocast: Autocast, module: STTSModule, batch: dict[str, Any]) -> Tensor:
    for part in (module.model.model.vision_tower, module.model.model.language_model):
        if part.is_activation_checkpointing:
            part.activation_checkpointing_enable({"use_reentrant": False, "context_fn": autocast.again})
    with autocast:
        loss = _loss(module, batch)
    autocast.leave_forward()
    return loss


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None
