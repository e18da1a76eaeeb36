"""Token Merging in the vision tower (appendix C of the paper)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.models.molmo2.modeling_molmo2 import Molmo2Model

from stts_lightning.molmo2.tower import VideoFeatures, connect, embed, feature_layers, tapped, videos_of
from stts_lightning.prune.coarse import counts_by_frame
from stts_lightning.prune.tome import Merged, merge, merges_by_block
from stts_lightning.prune.types import Scores, Windows
from stts_lightning.prune.windows import gather_windows


def encode_merging(model: Molmo2Model, _: nn.Module, pixels_TNC: Tensor, windows: Windows) -> VideoFeatures:
    """Windows of a frame are merged after every block up to the last feature layer, the same number after each.

    As in ToMe, a merged window counts for as many as it stands for in attention (the log of its size is added to what
    every query gives its keys). Other than in ToMe, merging stands after a block and not between its attention and
    its MLP, and compares the block's output and not its keys: blocks are called whole, for FSDP and ZeRO-3 hang their
    hooks there. The budget is a video's, shared evenly among its frames, frame 0 included.

    Raises:
        ValueError: windows hang over the edge of their frame, or a frame would have none left.
    """
    if not windows.tile(pixels_TNC.shape[1]):
        raise ValueError("tome needs windows that tile the frame: choose an image_size of whole windows.")
    by_video = zip(windows.frames_per_video, windows.budget(), strict=True)
    left_T = [left for frames, budget in by_video for left in counts_by_frame(budget, frames)]
    if min(left_T) == 0:
        raise ValueError(
            f"prune.percent={windows.percent:g} leaves fewer vision tokens than frames, and tome leaves one a frame at "
            "least. Prune less or sample fewer frames."
        )
    x_TND = embed(model, pixels_TNC)
    x_TWPD = gather_windows(x_TND, windows.table_MP, tiles=True)[0].unflatten(0, (len(x_TND), -1))

    tokens, sizes, places = [], [], []
    for left in sorted(set(left_T)):  # most often two numbers, one apart
        frames = torch.tensor([t for t, count in enumerate(left_T) if count == left])
        frames = frames.to(x_TND.device, non_blocking=True)
        tokens_TWD, size_TW, window_TW = _merged(model, x_TWPD.index_select(0, frames), left)
        tokens.append(tokens_TWD.flatten(0, 1))
        sizes.append(size_TW.flatten())
        places.append((window_TW + frames[:, None] * windows.windows_per_frame).flatten())
    place_K, order_K = torch.cat(places).sort()
    tokens_KD = torch.cat(tokens).index_select(0, order_K)
    scores_M = x_TND.new_zeros(len(windows.table_MP), dtype=torch.float)
    scores_M = scores_M.index_copy(0, place_K, torch.cat(sizes).index_select(0, order_K))
    scores_TW = scores_M.view(-1, windows.windows_per_frame)  # how many windows each stands for
    return videos_of(tokens_KD, Scores(scores_TW), scores_TW > 0, windows, windows.budget(), len(x_TND))


def _merged(model: Molmo2Model, x_TWPD: Tensor, left: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frames that all keep ``left`` windows: tokens (T, W', hidden), sizes (T, W') and windows (T, W')."""
    taps = feature_layers(model)
    num_frames, num_windows, patches, dim = x_TWPD.shape
    counts = merges_by_block(num_windows, left, max(taps) + 1)
    ones_TW = x_TWPD.new_ones(num_frames, num_windows, dtype=torch.float)
    window_TW = torch.arange(num_windows, device=x_TWPD.device).expand(num_frames, -1)
    state = Merged(x_TWPD, ones_TW, window_TW)
    tapped_so_far: list[int] = []
    for i in range(max(taps) + 1):
        bias_TN = None
        if any(counts[:i]):
            bias_TN = state.size_TW.log().repeat_interleave(patches, dim=1).to(x_TWPD.dtype)
        x_TND = state.x_TWPD[..., :dim].flatten(1, 2)
        x_TND = model.vision_tower.layers[i](x_TND, None, key_bias=bias_TN)
        x_TWPD = x_TND.unflatten(1, (-1, patches))
        carried = [x_TWPD, state.x_TWPD[..., dim:]]
        if i in taps:
            tapped_so_far.append(i)
            carried.append(x_TWPD)
        state = state._replace(x_TWPD=torch.cat(carried, dim=-1))
        turns = counts[i : i + 1] if i < max(taps) else counts[i:]
        for count in turns:
            state = merge(state, state.x_TWPD[..., :dim].mean(2), count)
    outputs = state.x_TWPD[..., dim:].flatten(0, 1).split(dim, dim=-1)
    features = tapped(dict(zip(tapped_so_far, outputs, strict=True)), taps)
    return connect(model, features, None).unflatten(0, (num_frames, -1)), state.size_TW, state.window_TW
