"""How each family of models takes a video: the tensors, and what stands for it in the prompt.

The text follows each family's own processor of transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stts_lightning.hosts.declare import HostSpec
from stts_lightning.hosts.pixels import Size, normalised, qwen_patches, qwen_size, restored_aspect
from stts_lightning.video.clip import Clip


class Shown(NamedTuple):
    """A video as a model takes it."""

    text: str  # stands in the prompt where the chat template has its mark
    tensors: dict[str, Tensor]  # the model's own keyword arguments


class Family(NamedTuple):
    """``mark`` is what the chat template writes for a video; ``video_id`` is the configuration's field with the id of
    the token that visual features replace."""

    mark: str
    video_id: str
    token_type: int | None  # of the visual tokens, where the model wants `mm_token_type_ids`
    show: Callable[[Clip, Size, HostSpec, Any, str], Shown]  # of (clip, the file's size, spec, model config, token)


def show_qwen3_vl(clip: Clip, size: Size, spec: HostSpec, config: Any, token: str) -> Shown:
    """Two frames a step, each step after the mean of its times; as many tokens as the aspect and the budget give."""
    vision = config.vision_config
    patch, merge, per_step = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
    longest = max(size)
    seen = Size(*(max(1, round(spec.image_size * side / longest)) for side in size))
    target = qwen_size(len(clip.frames), seen, patch * merge, per_step, spec.min_pixels, spec.max_pixels)
    frames = restored_aspect(torch.from_numpy(clip.frames), target)
    patches = qwen_patches(normalised(frames, spec.image_mean, spec.image_std), patch, merge, per_step)
    times = clip.times.tolist()
    times += times[-1:] * (-len(times) % per_step)
    tokens = token * (target.height * target.width // (patch * merge) ** 2)
    text = "".join(
        f"<{(times[i] + times[i + per_step - 1]) / 2:.1f} seconds><|vision_start|>{tokens}<|vision_end|>"
        for i in range(0, len(times), per_step)
    )
    return Shown(text, {"pixel_values_videos": patches.pixels, "video_grid_thw": patches.grid})


def show_perception_lm(clip: Clip, size: Size, spec: HostSpec, config: Any, token: str) -> Shown:
    """Square frames, each pooled to the same number of tokens, one after the other."""
    side = spec.image_size // spec.patch_size // config.projector_pooling_ratio
    pixels = normalised(torch.from_numpy(clip.frames), spec.image_mean, spec.image_std)
    return Shown(token * (len(pixels) * side * side), {"pixel_values_videos": pixels[None]})


def show_internvl(clip: Clip, size: Size, spec: HostSpec, config: Any, token: str) -> Shown:
    """Square frames, each a numbered picture of as many tokens."""
    pixels = normalised(torch.from_numpy(clip.frames), spec.image_mean, spec.image_std)
    picture = f"<img>{token * config.image_seq_length}</img>"
    text = "\n".join(f"Frame{number}: {picture}" for number in range(1, len(pixels) + 1))
    return Shown(text, {"pixel_values": pixels})


# Qwen's mark is all three tokens: each step in time brings its own start and end.
QWEN_MARK = "<|vision_start|><|video_pad|><|vision_end|>"
FAMILIES = {
    "Qwen3VLForConditionalGeneration": Family(QWEN_MARK, "video_token_id", 2, show_qwen3_vl),
    "PerceptionLMForConditionalGeneration": Family("<|video|>", "video_token_id", None, show_perception_lm),
    "InternVLForConditionalGeneration": Family("<video>", "image_token_id", None, show_internvl),
}
