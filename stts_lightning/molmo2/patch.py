"""One verb prunes a loaded Molmo2, and its handle gives the stock model back."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import Molmo2ForConditionalGeneration
from transformers.models.molmo2.modeling_molmo2 import Molmo2Adapter, Molmo2CausalLMOutputWithPast, Molmo2Model

from stts_lightning.config import PruneConfig, check_percent
from stts_lightning.molmo2.attention import PREFIX
from stts_lightning.molmo2.connector import WindowAdapter
from stts_lightning.molmo2.language import attention_mask_4d
from stts_lightning.molmo2.loss import weighted_loss
from stts_lightning.molmo2.prompt import (
    IGNORE,
    PromptCounts,
    ShortPrompt,
    count_prompts,
    dropped_by_row,
    placeholder_places,
    shorten,
)
from stts_lightning.molmo2.tower import Grids, VideoFeatures, check_layer, feature_layers
from stts_lightning.molmo2.vision import encode_videos
from stts_lightning.prune.registry import Host, build_scorer
from stts_lightning.prune.types import Pruning

VIDEO_INPUTS = ("pixel_values_videos", "video_token_pooling", "video_grids", "video_relevance")


@dataclass
class PrunedOutput(Molmo2CausalLMOutputWithPast):
    """Molmo2's output with the decisions of this pass beside it."""

    pruning: Pruning | None = None


class PrunedMolmo2Model(Molmo2Model):
    """A stock Molmo2Model whose videos come out pruned. Made by `apply_stts`, never built."""

    prune_config: PruneConfig

    @functools.wraps(Molmo2Model.get_video_features)
    def get_video_features(
        self,
        pixel_values_videos: Tensor,
        video_token_pooling: Tensor,
        video_grids: Tensor | Grids,
        video_relevance: Tensor | None = None,
        **_: Any,
    ) -> VideoFeatures:
        videos = pixel_values_videos, video_token_pooling, video_grids, video_relevance
        return encode_videos(self, self.vision_tower.token_scorer, self.prune_config, *videos)

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
        loss_divisor: Tensor | None = None,
        subsegment_ids: Tensor | None = None,
        prompt_counts: PromptCounts | None = None,
        sequence_length: int = 0,
        blank_video: bool = False,
        **kwargs: Any,
    ) -> PrunedOutput | tuple:
        """As the stock model's, and: ``loss_weights`` (B, L) weigh the labels, and then logits are made where
        there are labels alone and not returned; their weighted sum is divided by ``loss_divisor``, or by
        the sum of the weights; ``subsegment_ids`` (B, L) separate samples and branches that
        share a sequence (see `language.attention_mask_4d`); ``prompt_counts``, made while the prompts were on
        the host, spares waiting for the device, as ``video_grids`` do that are a list; ``sequence_length`` is
        what shortened prompts are padded to; ``video_relevance``
        (frames, windows), the truth about generated clips, which `oracle` asks for. ``blank_video``: no prompt shows
        the video, and nothing is learned from it. It is there because processes that share weights or gradients out
        must all run the same modules, also for a batch of texts."""
        pruning = None
        as_tuple = kwargs.pop("return_dict", None) is False
        videos = {name: kwargs.pop(name, None) for name in VIDEO_INPUTS}
        weigh = labels is not None and loss_weights is not None
        if prompt_counts is None and input_ids is not None and (weigh or videos["pixel_values_videos"] is not None):
            prompt_counts = count_prompts(input_ids, _two_d(kwargs), self.config.image_token_id, labels)
        if videos["pixel_values_videos"] is not None and blank_video:
            unseen = _nothing_learned(self.model.get_video_features(**videos))
            kwargs["inputs_embeds"] = self.get_input_embeddings()(input_ids) + unseen
        elif videos["pixel_values_videos"] is not None and input_ids is not None:
            features = self.model.get_video_features(**videos)
            pruning = features.pruning
            if self.model.prune_config.percent > 0:
                short = _shorten(
                    self, input_ids, pruning, prompt_counts, kwargs, subsegment_ids, pad_to=sequence_length
                )
                input_ids = short.input_ids
                labels = short.follow(labels, IGNORE)
                loss_weights = short.follow(loss_weights, 0)
                subsegment_ids = short.follow(subsegment_ids, -1)
            else:
                dropped_by_row(prompt_counts.placeholders, pruning.kept_tokens, pruning.kept_tokens)
                pruning.prompt_lengths = prompt_counts.lengths
            kwargs["inputs_embeds"] = _embed(self, input_ids, features)
        else:
            kwargs.update({name: value for name, value in videos.items() if value is not None})
            kwargs["input_ids"] = input_ids
        if subsegment_ids is not None:
            kwargs["attention_mask"] = _branch_mask(self, subsegment_ids, kwargs)

        if weigh:
            hidden = self.model(**{"use_cache": False, **kwargs}).last_hidden_state
            loss = weighted_loss(self.lm_head, hidden, labels, loss_weights, prompt_counts.labels, loss_divisor)
            out: dict[str, Any] = {"loss": loss}
        else:
            out = {**super().forward(labels=labels, **kwargs)}
        if pruning is not None:
            out["image_hidden_states"] = torch.cat(features.pooler_output)
        output = PrunedOutput(**out, pruning=pruning)
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
        counts = count_prompts(input_ids, _two_d(kwargs), self.config.image_token_id)
        if unpruned:
            features.pruning.prompt_lengths = counts.lengths
            out = super().generate(input_ids, mm_encoder_outputs={"video": features}, **kwargs)
            if not isinstance(out, Tensor):
                out.pruning = features.pruning
            return out
        short = _shorten(self, input_ids, features.pruning, counts, kwargs, None, pad_left=True)
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

    @contextmanager
    def as_stock(self) -> Iterator[Molmo2ForConditionalGeneration]:
        """The stock model for a while; the scorer and the settings come back afterwards."""
        scorer, config = self.scorer, self.config
        self.remove()
        try:
            yield self.model
        finally:
            apply_stts(self.model, config)
            self.model.model.vision_tower.token_scorer = scorer

    def remove(self) -> None:
        """Give the stock model back, to the last bit. The scorer's weights are dropped."""
        del self.model.model.vision_tower.token_scorer
        del self.model.model.prune_config
        vision = self.model.model.vision_tower.config
        vision._attn_implementation = vision._attn_implementation.removeprefix(PREFIX)
        self.model.model.multi_modal_projector.__class__ = Molmo2Adapter
        self.model.model.__class__ = Molmo2Model
        self.model.__class__ = Molmo2ForConditionalGeneration


def apply_stts(model: Molmo2ForConditionalGeneration, config: PruneConfig) -> PruneHandle:
    """Prune a loaded Molmo2 in place.

    Raises:
        ValueError: another model, one that is pruned already, a layer that the ViT does not have, options that the
            method does not take, or an attention implementation that drops masks or biases without a word.
    """
    if type(model) is PrunedMolmo2:
        raise ValueError("The model is pruned already; call handle.remove() before you prune it anew.")
    if type(model) is not Molmo2ForConditionalGeneration:
        raise ValueError(f"apply_stts takes a Molmo2ForConditionalGeneration, not {type(model).__name__}.")
    inner = model.model
    for part, name, known in (
        (inner.vision_tower, "vision tower", ("sdpa", "eager")),
        (inner.multi_modal_projector, "connector", ("sdpa", "eager")),
        (inner.language_model, "language model", ("sdpa", "eager", "flex_attention")),
    ):
        implementation = part.config._attn_implementation
        if implementation not in known:
            raise ValueError(
                f"The {name} uses attn_implementation={implementation!r}, which ignores the bias and masks that "
                f"pruning needs. Load the model with one of {', '.join(known)}."
            )
    check_layer(config, feature_layers(inner))
    vision = inner.config.vision_config
    host = Host(vision.hidden_size, vision.num_attention_heads, config.preset, config.seed)
    scorer = build_scorer(config.method, host, config.options)
    weight = inner.vision_tower.patch_embedding.weight
    inner.vision_tower.token_scorer = scorer.to(weight.device, weight.dtype).train(model.training)
    inner.prune_config = replace(config)
    inner.vision_tower.config._attn_implementation = PREFIX + inner.vision_tower.config._attn_implementation
    inner.multi_modal_projector.__class__ = WindowAdapter
    inner.__class__ = PrunedMolmo2Model
    model.__class__ = PrunedMolmo2
    return PruneHandle(model)


def _nothing_learned(features: VideoFeatures) -> Tensor:
    """0, with a gradient of 0 for all that made the features: no process waits for another's gradient."""
    pruning = features.pruning
    learned = [tokens_KD.sum() for tokens_KD in features.pooler_output]
    learned += [pruning.aux_loss] if pruning.aux_loss is not None else []
    learned += [pruning.listwise.loss] if pruning.listwise is not None else []
    return 0 * torch.stack([x.float() for x in learned]).sum().to(learned[0])


def _embed(model: PrunedMolmo2, input_ids: Tensor, features: VideoFeatures) -> Tensor:
    """Token embeddings with the vision tokens added at their placeholders, as Molmo2 adds them."""
    embeds_BLD = model.get_input_embeddings()(input_ids)
    tokens_KD = torch.cat(features.pooler_output).to(embeds_BLD)
    places_K = placeholder_places(input_ids, model.config.image_token_id, len(tokens_KD))
    return embeds_BLD.flatten(0, 1).index_add(0, places_K, tokens_KD).view_as(embeds_BLD)


def _shorten(
    model: PrunedMolmo2,
    input_ids: Tensor,
    pruning: Pruning,
    counts: PromptCounts,
    kwargs: dict[str, Any],
    subsegment_ids: Tensor | None,
    pad_left: bool | None = None,
    pad_to: int = 0,
) -> ShortPrompt:
    """Shorten the prompt and, in ``kwargs``, what runs beside it; record it in ``pruning``."""
    attention_mask = kwargs.get("attention_mask")
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError("A ready 4-D attention_mask cannot be shortened; pass the 2-D one and subsegment_ids.")
    windows = [keep.numel() for keep in pruning.keep]
    short = shorten(
        input_ids,
        torch.cat([keep.flatten() for keep in pruning.keep]),
        model.config.image_token_id,
        counts,
        dropped_by_row(counts.placeholders, windows, pruning.kept_tokens),
        attention_mask=attention_mask,
        position_ids=kwargs.get("position_ids"),
        subsegment_ids=subsegment_ids,
        positions=model.model.prune_config.positions,
        pad_id=model.generation_config.pad_token_id or 0,
        pad_left=pad_left,
        pad_to=pad_to,
    )
    kwargs["attention_mask"] = short.attention_mask
    kwargs["position_ids"] = short.position_ids
    if kwargs.get("mm_token_type_ids") is not None:
        kwargs["mm_token_type_ids"] = short.follow(kwargs["mm_token_type_ids"], 0)
    pruning.prompt_lengths = short.lengths
    pruning.token_index = short.index_BL
    return short


def _two_d(kwargs: dict[str, Any]) -> Tensor | None:
    """The attention mask if it tells padding; a ready 4-D one does not."""
    attention_mask: Tensor | None = kwargs.get("attention_mask")
    return attention_mask if attention_mask is not None and attention_mask.dim() == 2 else None


def _branch_mask(model: PrunedMolmo2, subsegment_ids: Tensor, kwargs: dict[str, Any]) -> Tensor | BlockMask:
    types = kwargs.get("mm_token_type_ids")
    if types is None:
        raise ValueError("subsegment_ids need mm_token_type_ids beside them, 1 at vision tokens.")
    attention_mask = kwargs.get("attention_mask")
    if attention_mask is None:
        attention_mask = torch.ones_like(types)
    implementation = model.model.language_model.config._attn_implementation
    return attention_mask_4d(attention_mask, types == 1, subsegment_ids, implementation, model.dtype)


def _shift_length_limits(model: PrunedMolmo2, kwargs: dict[str, Any], shorter_by: int) -> None:
    """``max_length`` and ``min_length`` count the given prompt; generate() will see the shortened one."""
    given = kwargs.get("generation_config") or model.generation_config
    for name in ("max_length", "min_length"):
        value = kwargs.get(name, getattr(given, name, None))
        if value and kwargs.get(name.replace("length", "new_tokens")) is None:
            kwargs[name] = max(value - shorter_by, 1)
