"""One verb prunes a loaded Molmo2, and its handle gives the stock model back."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Molmo2ForConditionalGeneration
from transformers.models.molmo2.modeling_molmo2 import Molmo2CausalLMOutputWithPast, Molmo2Model

from stts_lightning.config import PruneConfig, check_percent
from stts_lightning.molmo2.attention import PREFIX
from stts_lightning.molmo2.language import attention_mask_4d
from stts_lightning.molmo2.prompt import IGNORE, ShortPrompt, shorten
from stts_lightning.molmo2.vision import VideoFeatures, check_layer, encode_videos, feature_layers
from stts_lightning.prune.scorers import build_scorer
from stts_lightning.prune.types import Pruning

VIDEO_INPUTS = ("pixel_values_videos", "video_token_pooling", "video_grids")


@dataclass
class PrunedOutput(Molmo2CausalLMOutputWithPast):
    """Molmo2's output with the decisions of this pass beside it."""

    pruning: Pruning | None = None


class PrunedMolmo2Model(Molmo2Model):
    """A stock Molmo2Model whose videos come out pruned. Made by `apply_stts`, never built."""

    prune_config: PruneConfig

    @functools.wraps(Molmo2Model.get_video_features)
    def get_video_features(
        self, pixel_values_videos: Tensor, video_token_pooling: Tensor, video_grids: Tensor, **_: Any
    ) -> VideoFeatures:
        scorer = self.vision_tower.token_scorer
        return encode_videos(self, scorer, self.prune_config, pixel_values_videos, video_token_pooling, video_grids)

    @functools.wraps(Molmo2Model.forward)
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("pixel_values_videos") is not None and self.prune_config.percent > 0:
            raise ValueError(
                "The inner Molmo2Model does not shorten its prompt. Call the outer model, or pass the result of "
                "get_video_features as mm_encoder_outputs with a shortened prompt."
            )
        return super().forward(*args, **kwargs)


class PrunedMolmo2(Molmo2ForConditionalGeneration):
    """A stock Molmo2 that shortens its prompts to what its vision tower kept. Made by `apply_stts`."""

    @functools.wraps(Molmo2ForConditionalGeneration.forward)
    def forward(
        self,
        input_ids: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        loss_weights: Tensor | None = None,
        subsegment_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> PrunedOutput | tuple:
        """As the stock model's, and: ``loss_weights`` (B, L) weigh the labels; ``subsegment_ids`` (B, L)
        separate samples and branches that share a sequence (see `language.attention_mask_4d`)."""
        pruning = None
        as_tuple = kwargs.pop("return_dict", None) is False
        videos = {name: kwargs.pop(name, None) for name in VIDEO_INPUTS}
        if videos["pixel_values_videos"] is not None and input_ids is not None:
            features = self.model.get_video_features(**videos)
            pruning = features.pruning
            kwargs["mm_encoder_outputs"] = {"video": features}
            if self.model.prune_config.percent > 0:
                short = _shorten(self, input_ids, pruning, kwargs, subsegment_ids)
                input_ids = short.input_ids
                labels = short.follow(labels, IGNORE)
                loss_weights = short.follow(loss_weights, 0)
                subsegment_ids = short.follow(subsegment_ids, -1)
            else:
                pruning.prompt_lengths = _prompt_lengths(input_ids, kwargs.get("attention_mask"))
        else:
            kwargs.update({name: value for name, value in videos.items() if value is not None})
        if subsegment_ids is not None:
            kwargs["attention_mask"] = _branch_mask(self, input_ids, subsegment_ids, kwargs)

        weigh = labels is not None and loss_weights is not None
        out = super().forward(input_ids=input_ids, labels=None if weigh else labels, **kwargs)
        loss = weighted_loss(out.logits, labels, loss_weights) if weigh else out.loss
        output = PrunedOutput(**{**out, "loss": loss}, pruning=pruning)
        return output.to_tuple() if as_tuple else output

    @torch.no_grad()
    @functools.wraps(Molmo2ForConditionalGeneration.generate)
    def generate(self, inputs: Tensor | None = None, **kwargs: Any) -> Any:
        """As the stock model's. The returned sequences begin with the prompt as it was given, so that
        ``sequences[:, input_ids.shape[1]:]`` is the answer; the model itself saw the shortened one."""
        input_ids = inputs if inputs is not None else kwargs.pop("input_ids", None)
        videos = {name: kwargs.pop(name, None) for name in VIDEO_INPUTS}
        unpruned = self.model.prune_config.percent == 0
        if videos["pixel_values_videos"] is None or (unpruned and input_ids is None):
            kwargs.update({name: value for name, value in videos.items() if value is not None})
            return super().generate(input_ids, **kwargs)
        if input_ids is None:
            raise ValueError("generate() with videos needs input_ids; inputs_embeds alone hold no placeholders.")
        if kwargs.get("subsegment_ids") is not None:
            raise ValueError("generate() takes one question a row: subsegment_ids are for forward() alone.")
        features = self.model.get_video_features(**videos)
        if unpruned:
            features.pruning.prompt_lengths = _prompt_lengths(input_ids, kwargs.get("attention_mask"))
            out = super().generate(input_ids, mm_encoder_outputs={"video": features}, **kwargs)
            if not isinstance(out, Tensor):
                out.pruning = features.pruning
            return out
        short = _shorten(self, input_ids, features.pruning, kwargs, None, pad_left=True)
        if self.model.prune_config.positions == "renumbered":
            kwargs.pop("position_ids")  # generate() counts them itself
        _shift_length_limits(self, kwargs, input_ids.shape[1] - short.input_ids.shape[1])
        kwargs["mm_encoder_outputs"] = {"video": features}
        out = super().generate(short.input_ids, **kwargs)
        sequences = out if isinstance(out, Tensor) else out.sequences
        copies = len(sequences) // len(input_ids)
        answers = sequences[:, short.input_ids.shape[1] :]
        sequences = torch.cat([input_ids.repeat_interleave(copies, 0), answers], dim=1)
        if isinstance(out, Tensor):
            return sequences
        out.sequences = sequences
        out.pruning = features.pruning
        return out


class PruneHandle:
    """What `apply_stts` returns: the dial, the scorer and the way back."""

    def __init__(self, model: PrunedMolmo2) -> None:
        self.model = model

    @property
    def config(self) -> PruneConfig:
        return self.model.model.prune_config

    @property
    def scorer(self) -> nn.Module:
        return self.model.model.vision_tower.token_scorer

    @property
    def percent(self) -> float:
        return self.config.percent

    @percent.setter
    def percent(self, value: float) -> None:
        check_percent(value)
        self.model.model.prune_config = replace(self.config, percent=value)

    def remove(self) -> None:
        """Give the stock model back, to the last bit. The scorer's weights are dropped."""
        del self.model.model.vision_tower.token_scorer
        del self.model.model.prune_config
        vision = self.model.model.vision_tower.config
        vision._attn_implementation = vision._attn_implementation.removeprefix(PREFIX)
        self.model.model.__class__ = Molmo2Model
        self.model.__class__ = Molmo2ForConditionalGeneration


def apply_stts(model: Molmo2ForConditionalGeneration, config: PruneConfig) -> PruneHandle:
    """Prune a loaded Molmo2 in place.

    Raises:
        ValueError: another model, one that is pruned already, a layer that the ViT does not have, or an
            attention implementation that drops masks or biases without a word.
    """
    if type(model) is PrunedMolmo2:
        raise ValueError("The model is pruned already; call handle.remove() before you prune it anew.")
    if type(model) is not Molmo2ForConditionalGeneration:
        raise ValueError(f"apply_stts takes a Molmo2ForConditionalGeneration, not {type(model).__name__}.")
    inner = model.model
    for part, name in ((inner.vision_tower, "vision tower"), (inner.language_model, "language model")):
        implementation = part.config._attn_implementation
        if implementation not in ("sdpa", "eager"):
            raise ValueError(
                f"The {name} uses attn_implementation={implementation!r}, which ignores the bias and masks that "
                "pruning needs. Load the model with attn_implementation='sdpa'."
            )
    check_layer(config, feature_layers(inner))
    vision = inner.config.vision_config
    scorer = build_scorer(config.method, vision.hidden_size, vision.num_attention_heads, config.preset, config.seed)
    weight = inner.vision_tower.patch_embedding.weight
    inner.vision_tower.token_scorer = scorer.to(weight.device, weight.dtype).train(model.training)
    inner.prune_config = replace(config)
    inner.vision_tower.config._attn_implementation = PREFIX + inner.vision_tower.config._attn_implementation
    inner.__class__ = PrunedMolmo2Model
    model.__class__ = PrunedMolmo2
    return PruneHandle(model)


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Next-token cross-entropy, sum of weight * loss over sum of weights."""
    labels, weights = labels[:, 1:].flatten(), weights[:, 1:].flatten().float()
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels, ignore_index=IGNORE, reduction="none")
    weights = weights * (labels != IGNORE)
    return (losses * weights).sum() / weights.sum().clamp(min=1e-9)


def _shorten(
    model: PrunedMolmo2,
    input_ids: Tensor,
    pruning: Pruning,
    kwargs: dict[str, Any],
    subsegment_ids: Tensor | None,
    pad_left: bool | None = None,
) -> ShortPrompt:
    """Shorten the prompt and, in ``kwargs``, what runs beside it; record it in ``pruning``."""
    attention_mask = kwargs.get("attention_mask")
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError("A ready 4-D attention_mask cannot be shortened; pass the 2-D one and subsegment_ids.")
    short = shorten(
        input_ids,
        torch.cat([keep.flatten() for keep in pruning.keep]),
        model.config.image_token_id,
        attention_mask=attention_mask,
        position_ids=kwargs.get("position_ids"),
        subsegment_ids=subsegment_ids,
        positions=model.model.prune_config.positions,
        pad_id=model.generation_config.pad_token_id or 0,
        pad_left=pad_left,
    )
    kwargs["attention_mask"] = short.attention_mask
    kwargs["position_ids"] = short.position_ids
    if kwargs.get("mm_token_type_ids") is not None:
        kwargs["mm_token_type_ids"] = short.follow(kwargs["mm_token_type_ids"], 0)
    pruning.prompt_lengths = short.lengths
    pruning.token_index = short.index_BL
    return short


def _prompt_lengths(input_ids: Tensor, attention_mask: Tensor | None) -> list[int]:
    """Tokens of each unshortened prompt; a ready 4-D mask does not tell padding."""
    if attention_mask is None or attention_mask.dim() != 2:
        attention_mask = torch.ones_like(input_ids)
    return attention_mask.sum(1).tolist()


def _branch_mask(model: PrunedMolmo2, input_ids: Tensor, subsegment_ids: Tensor, kwargs: dict[str, Any]) -> Tensor:
    types = kwargs.get("mm_token_type_ids")
    if types is None:
        raise ValueError("subsegment_ids need mm_token_type_ids beside them, 1 at vision tokens.")
    attention_mask = kwargs.get("attention_mask")
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    eager = model.model.language_model.config._attn_implementation == "eager"
    return attention_mask_4d(attention_mask, types == 1, subsegment_ids, model.dtype if eager else None)


def _shift_length_limits(model: PrunedMolmo2, kwargs: dict[str, Any], shorter_by: int) -> None:
    """``max_length`` and ``min_length`` count the given prompt; generate() will see the shortened one."""
    given = kwargs.get("generation_config") or model.generation_config
    for name in ("max_length", "min_length"):
        value = kwargs.get(name, getattr(given, name, None))
        if value and kwargs.get(name.replace("length", "new_tokens")) is None:
            kwargs[name] = max(value - shorter_by, 1)
