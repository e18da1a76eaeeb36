"""The experiments by name: `make experiment NAME=...` does what its YAML's `experiment.kind` says."""

from __future__ import annotations

from collections.abc import Callable

from stts_lightning.config import Config


def run_experiment(config: Config) -> int:
    """Run one; the exit status."""
    return _KINDS[config.experiment.kind](config)


def _sweep(config: Config) -> int:
    from stts_lightning.sweep import run_sweep

    return run_sweep(config)


def _bench(config: Config) -> int:
    from stts_lightning.experiment.throughput import measure

    return measure(config)


def _images(config: Config) -> int:
    from stts_lightning.experiment.images import ask_about_images

    return _sweep(config) or ask_about_images(config)


def _pruned(config: Config) -> int:
    from stts_lightning.experiment.pruned import show_pruned

    return _sweep(config) or show_pruned(config)


def _domains(config: Config) -> int:
    from stts_lightning.experiment.domains import run_domains

    return run_domains(config)


_KINDS: dict[str, Callable[[Config], int]] = {
    "sweep": _sweep,
    "bench": _bench,
    "images": _images,
    "pruned": _pruned,
    "domains": _domains,
}
