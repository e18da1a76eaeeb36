"""The experiments by name: what the line `make experiment NAME=...` does is what its YAML's `experiment.kind` says."""

from __future__ import annotations

from collections.abc import Callable

from stts_lightning.config import Config


def run_experiment(config: Config) -> int:
    """Run one; the exit status."""
    return _KINDS[config.experiment.kind](config)


def _sweep(config: Config) -> int:
    from stts_lightning.sweep import run_sweep

    return run_sweep(config)


_KINDS: dict[str, Callable[[Config], int]] = {"sweep": _sweep}
