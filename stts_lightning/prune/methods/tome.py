"""Token Merging (appendix C): windows are merged between the ViT's blocks; see `prune/tome.py`."""

from __future__ import annotations

from stts_lightning.prune.methods.baselines import ConstantScorer
from stts_lightning.prune.registry import register


@register("tome", stage="merge")
class ToMe(ConstantScorer):
    """Nothing is scored; similarity decides from block to block."""
