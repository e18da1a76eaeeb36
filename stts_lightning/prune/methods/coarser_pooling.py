"""Coarser pooling at an equal number of vision tokens; see `prune/coarse.py`."""

from __future__ import annotations

from stts_lightning.prune.methods.baselines import ConstantScorer
from stts_lightning.prune.registry import register


@register("coarser_pooling", stage="pool")
class CoarserPooling(ConstantScorer):
    """Nothing is scored and nothing leaves; the connector sees larger windows."""
