"""Molmo2 with random weights at the real sizes, or scaled down: what a benchmark needs of a checkpoint."""

from __future__ import annotations

import torch
from transformers import Molmo2Config, Molmo2ForConditionalGeneration

SIZES = ("4b", "small")


def random_molmo2(
    size: str, *, dtype: torch.dtype, device: torch.device, attention: str | dict[str, str]
) -> Molmo2ForConditionalGeneration:
    """``4b``: the shapes of Molmo2-4B (SigLIP 2 So400m/14 at 378 pixels, Qwen3-4B). ``small``: the same proportions
    at about a tenth of the widths, a third of the depths and a fifth of the patches, for a CPU."""
    config = _four_b() if size == "4b" else _small()
    config._attn_implementation = attention
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with device:
            return Molmo2ForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)


def _four_b() -> Molmo2Config:
    return Molmo2Config(
        vision_config={},  # transformers' defaults are So400m's
        adapter_config={"intermediate_size": 9728, "text_hidden_size": 2560},
        text_config={
            "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "vocab_size": 151936,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
        },
    )  # fmt: skip


def _small() -> Molmo2Config:
    vit = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32}
    vocabulary = 8192
    return Molmo2Config(
        vision_config={
            **vit, "intermediate_size": 480, "num_hidden_layers": 10, "image_size": [168, 168], "patch_size": 14
        },
        adapter_config={
            **vit, "vision_feature_layer": [9, 7], "intermediate_size": 960, "text_hidden_size": 256
        },
        text_config={
            "hidden_size": 256, "intermediate_size": 960, "num_hidden_layers": 6, "vocab_size": vocabulary,
            "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 32,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6},
        },
        **{
            f"{name}_token_id": vocabulary + i
            for i, name in enumerate(
                ("image_start", "image_end", "low_res_image_start", "frame_start", "frame_end")
            )
        },
        image_patch_id=vocabulary + 5,
    )  # fmt: skip
