"""What a step looks at and computes: samples in sequences, tokens, operations. Counted from shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stts_lightning.bench.case import WINDOW, Shape
from stts_lightning.bench.flops import forward_flops, language_flops_per_token
from stts_lightning.config import Config
from stts_lightning.prune.select import prune_count

PASSES = 3  # the backward pass takes twice what the forward pass takes
ANSWERED = 8  # one in so many tokens of text is learnt, as in the benchmark


@dataclass(frozen=True)
class Load:
    """One micro-batch: ``rows`` sequences of ``samples`` clips each.

    Every clip has video.max_frames frames and as much text as those of the paper's Table 6; real ones are shorter, and
    more of them share a sequence. ``given`` and ``length`` are the places of a sequence before and after pruning,
    padding included; ``tokens`` those after pruning that are no padding.
    """

    rows: int
    samples: int
    clip: Shape
    windows: int  # of a frame
    percent: float
    given: int
    length: int
    tokens: int

    @property
    def frames(self) -> int:
        return self.rows * self.samples * self.clip.frames

    @property
    def prompt(self) -> int:
        """Tokens of one clip before pruning."""
        return len(self.clip.video_tokens(self.windows))

    @property
    def labels(self) -> int:
        """Learnt tokens of a sequence."""
        return self.samples * (self.clip.video_tokens(self.windows).count(0) // ANSWERED)

    @property
    def kept_windows(self) -> int:
        return self.frames * self.windows - self.rows * self.samples * _dropped(self.clip, self.windows, self.percent)


def load_of(config: Config, percent: float) -> Load:
    """What the packer, the collator and pruning make of clips of video.max_frames frames.

    Raises:
        ValueError: a clip that is larger than a sequence.
    """
    packing, frames = config.data.packing, config.video.max_frames
    windows = (config.backbone.image_size // config.backbone.patch_size // WINDOW) ** 2
    clip = Shape("4b", 1, frames)
    prompt, dropped = len(clip.video_tokens(windows)), _dropped(clip, windows, percent)
    samples, pad_to = 1, 0
    if packing.enabled:
        counted = prompt - dropped if packing.count == "kept" else prompt
        samples, pad_to = min(packing.max_frames // frames, packing.max_tokens // counted), packing.max_tokens
        if samples == 0:
            raise ValueError(
                f"A clip of video.max_frames={frames} frames takes {counted} tokens and fits no sequence: data.packing "
                f"has max_tokens={packing.max_tokens} and max_frames={packing.max_frames}."
            )
    tokens = samples * (prompt - dropped)
    given = max(samples * prompt, pad_to)
    # `prompt.shorten` fills shortened prompts up to the same length: shapes stay, and so does what is computed.
    return Load(config.optim.batch_size, samples, clip, windows, percent, given, max(tokens, pad_to), tokens)


def _dropped(clip: Shape, windows: int, percent: float) -> int:
    return prune_count(percent, clip.frames, windows)


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a micro-batch on one GPU, forward and backward. ``recomputed``: what activation
    checkpointing runs a second time; ``padding``: what is spent on places that hold no token, in ``model`` too."""

    model: float
    padding: float
    recomputed: float

    @property
    def total(self) -> float:
        return self.model + self.recomputed


def work_of(config: Config, model_config: Any, load: Load) -> Work:
    """Dense products, and attention between tokens that see each other; not norms, activations and the scorer."""
    clips = Shape(load.clip.size, load.rows * load.samples, load.clip.frames)
    labels = load.labels // load.samples
    flops = forward_flops(model_config, clips, load.percent, config.prune.layer, labels=labels, dense=False)
    padding = load.rows * (load.length - load.tokens) * language_flops_per_token(model_config.text_config)
    checkpointed = config.backbone.activation_checkpointing
    last = _last_products(config, model_config, load)
    again = {"vision": flops.vision - last["vision"], "language": flops.language + padding - last["language"]}
    return Work(
        model=PASSES * (flops.total + padding),
        padding=PASSES * padding,
        recomputed=sum(x for part, x in again.items() if checkpointed in (part, "all")),
    )


def _last_products(config: Config, model_config: Any, load: Load) -> dict[str, float]:
    """Of all blocks, forward: `torch.utils.checkpoint` stops when it has what the backward pass asks for, and nobody
    asks for what a block ends with."""
    vision, text = model_config.vision_config, model_config.text_config
    kept = load.kept_windows / (load.frames * load.windows)
    whole = config.prune.layer + 2 if kept < 1 else vision.num_hidden_layers
    blocks = whole + kept * (vision.num_hidden_layers - whole)
    patches = load.frames * (vision.image_size[0] // vision.patch_size) ** 2
    return {
        "vision": 2.0 * vision.hidden_size * vision.intermediate_size * blocks * patches,
        "language": 2.0 * text.hidden_size * text.intermediate_size * text.num_hidden_layers * load.rows * load.length,
    }
