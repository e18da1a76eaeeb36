"""Temporal similarity without a learned part: what has not changed leaves."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stts_lightning.prune.registry import Host, register
from stts_lightning.prune.similarity import temporal_change
from stts_lightning.prune.types import Scores, Windows
from stts_lightning.prune.windows import gather_windows, is_first_frame, mean_pool, previous_frame

PROTECTED = 3.0  # above any 1 - cosine


def _pooled(x_TND: Tensor, windows: Windows) -> Tensor:
    gathered = gather_windows(x_TND, windows.table_MP, windows.tile(x_TND.shape[1]))
    return mean_pool(*gathered).unflatten(0, (-1, windows.windows_per_frame))


@register("heuristic")
class HeuristicScorer(nn.Module):
    """1 - cosine of the mean-pooled features of block l with the frame before (paper 5.1)."""

    def __init__(self, host: Host) -> None:
        super().__init__()

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        first_T = is_first_frame(windows.frames_per_video, x_TND.device)
        with torch.no_grad():
            return Scores(temporal_change(_pooled(x_TND, windows), first_T))


@register("heuristic_l2")
class L2Heuristic(nn.Module):
    """The distance between the mean-pooled features of block l and those of the frame before: how much has changed,
    where the cosine asks in which direction."""

    def __init__(self, host: Host) -> None:
        super().__init__()

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        first_T = is_first_frame(windows.frames_per_video, x_TND.device)
        with torch.no_grad():
            pooled_TWD = _pooled(x_TND, windows).float()
            return Scores((pooled_TWD - previous_frame(pooled_TWD, first_T)).norm(dim=-1))


@register("heuristic_median")
class MedianHeuristic(nn.Module):
    """1 - cosine of the mean-pooled features of block l with their median over the video: what is seldom there stays,
    and what comes back or flickers does not count twice."""

    def __init__(self, host: Host) -> None:
        super().__init__()

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        with torch.no_grad():
            videos = _pooled(x_TND, windows).float().split(windows.frames_per_video)
            scores = [1 - F.cosine_similarity(video, video.median(dim=0).values[None], dim=-1) for video in videos]
        return Scores(torch.cat(scores))


@register("post_vit_heuristic", stage="tokens")
class PostViTHeuristic(nn.Module):
    """The same rule on the vision tokens that the connector made, after the whole ViT: what inference servers ship
    as efficient video sampling."""

    def __init__(self, host: Host) -> None:
        super().__init__()

    def forward(self, x_TWD: Tensor, windows: Windows) -> Scores:
        first_T = is_first_frame(windows.frames_per_video, x_TWD.device)
        with torch.no_grad():
            return Scores(temporal_change(x_TWD, first_T))


@register("heuristic_reference", stage="embeddings")
class RunningReference(nn.Module):
    """The authors' released rule: every window is compared with a running reference instead of the frame before.

    The reference begins as frame 0. A frame whose mean similarity is under ``threshold`` is a new scene: all of it is
    protected, and is the reference from then on. Else only the windows under it replace theirs. Where a video has too
    few unprotected windows for its budget, the threshold is lowered by 0.05, five times at most and not below 0.
    All thresholds are tried at once, so that nothing waits for the device. Each video by itself; the released code
    takes all videos of a packed row for one.
    """

    def __init__(self, host: Host, threshold: float = 0.85) -> None:
        super().__init__()
        if not 0 <= threshold <= 1:
            raise ValueError(f"prune.options.threshold={threshold} is a cosine similarity, 0 to 1.")
        self.thresholds = [t for t in (threshold - 0.05 * i for i in range(6)) if t >= 0]

    def forward(self, x_TND: Tensor, windows: Windows) -> Scores:
        with torch.no_grad():
            pooled_TWD = F.normalize(_pooled(x_TND, windows).float(), dim=-1)
            threshold_H11 = pooled_TWD.new_tensor(self.thresholds)[:, None, None]
            videos = pooled_TWD.split(windows.frames_per_video)
            scores = [
                _by_reference(video_FWD, budget, threshold_H11)
                for video_FWD, budget in zip(videos, windows.budget(), strict=True)
            ]
        return Scores(torch.cat(scores))


def _by_reference(video_FWD: Tensor, budget: int, threshold_H11: Tensor) -> Tensor:
    """Scores (F, W) of one video, by the first threshold under which its budget can be met."""
    reference_HWD = video_FWD[0].expand(len(threshold_H11), -1, -1)
    rows_HW = [torch.full_like(reference_HWD[..., 0], PROTECTED)]
    for frame_WD in video_FWD[1:]:
        similarity_HW = (reference_HWD * frame_WD).sum(-1)
        new_scene_H1 = similarity_HW.mean(-1, keepdim=True) < threshold_H11[..., 0]
        rows_HW.append((1 - similarity_HW).masked_fill(new_scene_H1, PROTECTED))
        replaced_HW = new_scene_H1 | (similarity_HW < threshold_H11[..., 0])
        reference_HWD = torch.where(replaced_HW[..., None], frame_WD, reference_HWD)
    scores_HFW = torch.stack(rows_HW, dim=1)
    leaving = scores_HFW[0].numel() - budget
    enough_H = (scores_HFW < PROTECTED).sum((1, 2)) >= leaving
    enough_H[-1] = True  # the last threshold stands whether it is enough or not
    first = enough_H.int().argmax()
    return scores_HFW.index_select(0, first[None])[0]
