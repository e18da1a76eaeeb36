"""What makes a model faster or smaller without changing what it computes."""

from __future__ import annotations

from transformers import Molmo2ForConditionalGeneration

from stts_lightning.config import BackboneConfig


def speed_up(model: Molmo2ForConditionalGeneration, config: BackboneConfig) -> None:
    """Activation checkpointing and compiled blocks, as ``config`` asks for them. In place."""
    parts = {"vision": model.model.vision_tower, "language": model.model.language_model}
    for name, part in parts.items():
        if config.activation_checkpointing in (name, "all"):
            part.activation_checkpointing_enable()
    if config.compile:
        for part in parts.values():
            for block in part.layers:
                block.compile()
