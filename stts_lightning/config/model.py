"""Settings of the model and of what is pruned."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stts_lightning.config.checks import one_of
from stts_lightning.config.paths import method_names

FIXED_PERCENT = {"none": 0.0, "text_only": 100.0}  # the two ends, whatever the percentage beside them
PRESETS = ("paper", "released")
LAYOUTS = ("flat", "packed")
POSITIONS = ("renumbered", "original")
ATTENTION = ("auto", "sdpa", "eager", "flex_attention")
CHECKPOINTING = ("none", "vision", "language", "all")


@dataclass
class PruneConfig:
    """What is pruned, where and by which scores (paper, section 3)."""

    method: str = "stts"
    percent: float = 50.0  # k %, 0-100: the share of all windows of a video that leave
    # Drawn anew from it in every training step, so that one model serves every k in it; empty: `percent` always.
    percent_range: list[float] = field(default_factory=list)
    layer: int = 3  # l: the scorer reads the output of this ViT block (0-based)
    preset: str = "paper"  # paper: what the text says; released: what the authors' vision code does
    layout: str = "flat"  # of what is left of the frames: one sequence without padding, or packed, the paper's rows
    positions: str = "renumbered"  # of the surviving prompt tokens; original keeps the gaps
    seed: int = 0  # scorer initialisation, and the mask that `random` uses in evaluation
    options: dict[str, Any] = field(default_factory=dict)  # what the method's own class takes

    def __post_init__(self) -> None:
        one_of("prune.method", self.method, method_names())
        one_of("prune.preset", self.preset, PRESETS)
        one_of("prune.layout", self.layout, LAYOUTS)
        one_of("prune.positions", self.positions, POSITIONS)
        check_percent(self.percent)
        if self.percent_range and (len(self.percent_range) != 2 or self.percent_range[0] > self.percent_range[1]):
            raise ValueError(f"prune.percent_range={self.percent_range} must be empty or [lowest, highest].")
        for percent in self.percent_range:
            check_percent(percent)
        self.percent = FIXED_PERCENT.get(self.method, self.percent)
        if self.layer < 0:
            raise ValueError(f"prune.layer={self.layer} must be 0 or more: blocks are counted from 0.")


def check_percent(percent: float) -> None:
    """Raise ValueError unless ``percent`` is a number in 0..100."""
    if not 0 <= percent <= 100:
        raise ValueError(f"prune.percent={percent} is not in 0..100. It is the paper's k %, so 50 means one half.")


@dataclass
class TinyConfig:
    """Sizes of the tiny Molmo2 that is built with random weights."""

    vit_hidden: int = 32
    vit_heads: int = 2
    vit_mlp: int = 64
    vit_layers: int = 4
    feature_layers: list[int] = field(default_factory=lambda: [3, 2])
    adapter_mlp: int = 192
    text_hidden: int = 96
    text_heads: int = 3
    text_mlp: int = 192
    text_layers: int = 2
    rope_theta: float = 1e5
    initializer_range: float = 0.12
    position_std: float = 0.3  # of the ViT's position embeddings; transformers' own 0.02 learns far slower
    seed: int = 0


@dataclass
class BackboneConfig:
    name: str = "tiny"
    pretrained: str | None = None  # hub id or folder; null builds the tiny configuration
    revision: str | None = None
    image_size: int = 48  # pixels; frames are resized to a square
    patch_size: int = 4  # pixels
    window: int = 3  # w: patches on one side of a pooled window
    attention: str = "auto"  # of the language model; auto: flex_attention on a GPU, else sdpa
    dtype: str = "float32"
    activation_checkpointing: str = "none"  # whose activations are recomputed in the backward pass: slower, less memory
    compile: bool = False  # torch.compile the blocks of the ViT and of the language model
    tiny: TinyConfig = field(default_factory=TinyConfig)

    def __post_init__(self) -> None:
        one_of("backbone.attention", self.attention, ATTENTION)
        one_of("backbone.activation_checkpointing", self.activation_checkpointing, CHECKPOINTING)
        one_of("backbone.dtype", self.dtype, ("float32", "bfloat16"))
        if self.image_size % self.patch_size:
            raise ValueError(
                f"backbone.image_size={self.image_size} is not a multiple of patch_size={self.patch_size}."
            )
