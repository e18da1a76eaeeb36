"""Accuracy over questions that come in clusters: several on one video."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple


class Accuracy(NamedTuple):
    """Mean and its standard error, both shares of 1; ``stderr`` is None with fewer than two videos."""

    mean: float
    stderr: float | None


def clustered_accuracy(correct: Sequence[float], videos: Sequence[str]) -> Accuracy:
    """Mean with a cluster-robust standard error, videos as clusters.

    Questions on one video are not independent: the residuals are summed by video before they are squared,
    with the usual G / (G - 1) correction for G videos.
    """
    if not correct:
        raise ValueError("No question was answered, so there is no accuracy.")
    mean = sum(correct) / len(correct)
    residuals: dict[str, float] = defaultdict(float)
    for hit, video in zip(correct, videos, strict=True):
        residuals[video] += hit - mean
    count = len(residuals)
    if count < 2:
        return Accuracy(mean, None)
    variance = sum(r * r for r in residuals.values()) * count / (count - 1) / len(correct) ** 2
    return Accuracy(mean, variance**0.5)


def by_category(correct: Sequence[bool], categories: Sequence[str]) -> dict[str, float]:
    """Accuracy of each category."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for hit, category in zip(correct, categories, strict=True):
        groups[category or "all"].append(hit)
    return {name: sum(hits) / len(hits) for name, hits in sorted(groups.items())}
