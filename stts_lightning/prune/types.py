"""The decisions, as values: nothing of them is kept in a module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from stts_lightning.prune.budget import prune_count


class Windows(NamedTuple):
    """Where the windows of a batch of videos lie.

    ``table_MP`` holds indices into the flattened (T * N) patches, -1 where a window hangs over the edge of
    its frame; windows are ordered by video, frame, row, column. ``percent`` is k. ``relevant_TW`` is the truth
    about generated clips, True where a window shows what the questions are about: for `oracle`, and for no other.
    """

    table_MP: Tensor
    frames_per_video: list[int]
    windows_per_frame: int
    rows: int
    columns: int
    percent: float = 0.0
    relevant_TW: Tensor | None = None

    def budget(self) -> list[int]:
        """How many windows of each video stay."""
        return [
            frames * self.windows_per_frame - prune_count(self.percent, frames, self.windows_per_frame)
            for frames in self.frames_per_video
        ]

    def tile(self, num_patches: int) -> bool:
        """True where no window hangs over the edge of its frame of ``num_patches`` patches."""
        return self.windows_per_frame * self.table_MP.shape[1] == num_patches


class Scores(NamedTuple):
    """What a scorer says of every window.

    ``log_scores_TW`` is what the bias is made of; None for a scorer that biases nothing.
    ``aux_loss`` is the unweighted auxiliary loss; None for a scorer that has none.
    ``use_logits_TW`` learn from the use that is made of the kept windows (`listwise.learn_from_use`), where given.
    """

    scores_TW: Tensor
    log_scores_TW: Tensor | None = None
    aux_loss: Tensor | None = None
    use_logits_TW: Tensor | None = None


class Selection(NamedTuple):
    """One keep-mask a window, decided once; ``kept_K`` are flat window indices in ascending order."""

    keep_TW: Tensor
    kept_K: Tensor
    kept_per_video: list[int]


class Listwise(NamedTuple):
    """``loss`` goes into the sum that is differentiated: it is 0, and its gradient is the listwise loss's.

    What that loss is, is known when the gradient of the vision tokens is: ``value`` (0-dim) holds it after the
    backward pass.
    """

    loss: Tensor
    value: Tensor


class Packed(NamedTuple):
    """Where each kept patch went (paper 3.3, algorithm 1).

    ``source_RN``: flat patch index that stands in a slot, -1 for an unused slot.
    ``segment_RN``: source frame of a slot, -1 for an unused slot; tokens attend inside their segment.
    ``slot_of_patch``: (T * N,), flat slot of each kept patch, -1 for a patch that left.
    """

    source_RN: Tensor
    segment_RN: Tensor
    slot_of_patch: Tensor


@dataclass
class Pruning:
    """The public record of one forward pass, one list entry a video.

    ``scores`` and ``keep`` are (frames, windows); ``kept_tokens`` counts the vision tokens that reach the
    language model. ``packed_rows`` is T', the rows that the ViT blocks after l+1 ran on: 1 in the flat layout.
    ``aux_loss`` and ``listwise`` are unweighted. ``prompt_lengths`` counts the tokens that reached the language
    model, one entry a prompt; ``token_index`` (B, L') says which token of the given prompt stands at each place of
    the shortened one, -1 for padding.
    """

    scores: list[Tensor]
    keep: list[Tensor]
    kept_tokens: list[int]
    packed_rows: int
    aux_loss: Tensor | None = None
    listwise: Listwise | None = None
    prompt_lengths: list[int] | None = None
    token_index: Tensor | None = None
