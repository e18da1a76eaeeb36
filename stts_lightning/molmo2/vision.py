"""MAIN PATH: ViT blocks 0..l -> score -> biased block l+1 -> select -> pack -> other blocks -> connector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.molmo2.modeling_molmo2 import Molmo2Model

from stts_lightning.config import PruneConfig
from stts_lightning.molmo2.arrange import arrange
from stts_lightning.molmo2.attention import attention_dtype
from stts_lightning.molmo2.merge import encode_merging
from stts_lightning.molmo2.tower import (
    Grids,
    VideoFeatures,
    all_the_same,
    check_layer,
    connect,
    describe_windows,
    embed,
    feature_layers,
    nothing,
    run_blocks,
    tapped,
    videos_of,
)
from stts_lightning.molmo2.whole import encode_coarsely, encode_then_drop
from stts_lightning.prune.bias import expand_to_patches, paper_bias, released_bias
from stts_lightning.prune.listwise import learn_from_use
from stts_lightning.prune.presets import PRESETS
from stts_lightning.prune.registry import find_method
from stts_lightning.prune.select import select
from stts_lightning.prune.types import Scores, Selection, Windows
from stts_lightning.prune.windows import gather_windows, is_first_frame, window_of_patch
from stts_lightning.video.patches import window_table


def encode_videos(
    model: Molmo2Model,
    scorer: nn.Module,
    config: PruneConfig,
    pixels_TNC: Tensor,
    table_MP: Tensor,
    grids_V3: Tensor | Grids,
    relevant_TW: Tensor | None = None,
) -> VideoFeatures:
    """Patches of all videos to the language model's vision tokens, pruned on the way.

    Args:
        pixels_TNC: normalised patches, one row a pixel value of the patch.
        table_MP: ``video_token_pooling``, flat patch indices of each window.
        grids_V3: ``video_grids``, frames, window rows and window columns of each video; as a list, or on the
            host, nothing waits for them.
        relevant_TW: ``video_relevance``, the truth about generated clips (see `Windows`).

    Raises:
        ValueError: grids that do not fit the pixels or the table, or too few ViT blocks for ``layer``.
    """
    pixels_TNC = pixels_TNC.flatten(0, -3)
    windows = describe_windows(pixels_TNC, table_MP, grids_V3, config.percent, relevant_TW)
    if config.percent == 100:  # the text-only lower bound: nothing to look at
        return nothing(model, pixels_TNC, windows)
    stage = find_method(config.method).stage
    if config.percent > 0 and stage == "tokens":
        return encode_then_drop(model, scorer, pixels_TNC, windows)
    if config.percent > 0 and stage == "pool":
        return encode_coarsely(model, scorer, pixels_TNC, windows)
    if config.percent > 0 and stage == "merge":
        return encode_merging(model, scorer, pixels_TNC, windows)
    return encode_dropping(model, scorer, config, pixels_TNC, windows)


def encode_dropping(
    model: Molmo2Model, scorer: nn.Module, config: PruneConfig, pixels_TNC: Tensor, windows: Windows
) -> VideoFeatures:
    """Tokens leave inside the ViT, after block l+1."""
    tower, taps = model.vision_tower, feature_layers(model)
    num_patches = pixels_TNC.shape[1]
    check_layer(config, taps)

    x_TND, features, scores = first_blocks(model, scorer, config, pixels_TNC, windows)
    if config.percent == 0:
        x_TND, features = run_blocks(model, x_TND, range(config.layer + 1, max(taps) + 1), features)
        gathered = gather_windows(tapped(features, taps), windows.table_MP, windows.tile(num_patches))
        everything = select(scores.scores_TW, windows.frames_per_video, 0)
        return _videos(connect(model, *gathered), scores, everything, windows, len(x_TND))

    bias_TN = _key_bias(scores, config.preset, windows, num_patches, x_TND)
    selection = select(scores.scores_TW, windows.frames_per_video, config.percent)
    i = config.layer + 1
    x_TND = tower.layers[i](x_TND, None, key_bias=bias_TN)

    refill = PRESETS[config.preset].refill_lone_frames
    left = arrange(selection, windows, num_patches, config.layout, refill, attention_dtype(x_TND))
    features = {tap: left.gather(features[tap]) for tap in features}
    x_RND = left.gather(x_TND)
    if i in taps:
        features[i] = x_RND
    for i in range(config.layer + 2, max(taps) + 1):
        x_RND = tower.layers[i](x_RND, left.mask, segments=left.segments)
        if i in taps:
            features[i] = x_RND
    tokens_KD = left.restore(connect(model, *left.windows(tapped(features, taps))))
    return _videos(tokens_KD, scores, selection, windows, len(x_RND))


def first_blocks(
    model: Molmo2Model, scorer: nn.Module, config: PruneConfig, pixels_TNC: Tensor, windows: Windows
) -> tuple[Tensor, dict[int, Tensor], Scores]:
    """The output of ViT block l on whole frames, (T, N, D), those up to it that the connector reads, and the scores."""
    embedded_TND = embed(model, pixels_TNC)
    x_TND, features = run_blocks(model, embedded_TND, range(config.layer + 1), {})
    reads = {"block": x_TND, "embeddings": embedded_TND}
    stage = find_method(config.method).stage
    if stage not in reads:  # it prunes elsewhere, and nothing at k = 0
        return x_TND, features, all_the_same(windows, x_TND)
    return x_TND, features, scorer(reads[stage], windows)


def read_by_scorer(
    model: Molmo2Model, layer: int, pixels_TNC: Tensor, table_MP: Tensor, grids_V3: Tensor | Grids
) -> tuple[Tensor, Windows]:
    """The output of ViT block l, (T, N, D), without gradient, and its windows: what a scorer learns on alone."""
    pixels_TNC = pixels_TNC.flatten(0, -3)
    with torch.no_grad():
        x_TND, _ = run_blocks(model, embed(model, pixels_TNC), range(layer + 1), {})
    return x_TND, describe_windows(pixels_TNC, table_MP, grids_V3)


def score_blank(model: Molmo2Model, scorer: nn.Module, window: int) -> Tensor:
    """0, with a gradient of 0 for the scorer: for a batch of images, of which it scores nothing."""
    vision = model.vision_tower.config
    height, width = (pixels // vision.patch_size for pixels in vision.image_size)
    table_MP = window_table(2, height, width, window).to(model.device)
    x_TND = torch.ones(2, height * width, vision.hidden_size, dtype=model.dtype, device=model.device)
    grid = (2, -(-height // window), -(-width // window))
    scores = scorer(x_TND, describe_windows(x_TND, table_MP, [grid]))
    return 0 * sum(x.float().sum() for x in (scores.scores_TW, scores.use_logits_TW) if x is not None)


def _videos(tokens_KD: Tensor, scores: Scores, selection: Selection, windows: Windows, rows: int) -> VideoFeatures:
    """`videos_of`, and on the way a scorer that learns from use is taught."""
    listwise = None
    if scores.use_logits_TW is not None and torch.is_grad_enabled():
        tokens_KD, listwise = learn_from_use(tokens_KD, scores.use_logits_TW, selection, windows)
    return videos_of(tokens_KD, scores, selection.keep_TW, windows, selection.kept_per_video, rows, listwise)


def _key_bias(scores: Scores, preset: str, windows: Windows, num_patches: int, x_TND: Tensor) -> Tensor | None:
    if scores.log_scores_TW is None:
        return None
    first_T = is_first_frame(windows.frames_per_video, x_TND.device)
    if PRESETS[preset].rescale_bias:
        bias_TW = released_bias(scores.scores_TW, first_T, windows)
    else:
        bias_TW = paper_bias(scores.log_scores_TW, first_T)
    owner = window_of_patch(windows, x_TND.shape[0] * num_patches)
    return expand_to_patches(bias_TW, owner, num_patches)
