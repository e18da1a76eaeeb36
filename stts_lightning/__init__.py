"""Spatio-temporal token scoring for video vision-language models, on Molmo2 and PyTorch Lightning."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public names, imported when they are first used: a video worker or `--help` must not wait for torch.
_EXPORTS = {
    "PruneConfig": "stts_lightning.config",
    "apply_stts": "stts_lightning.molmo2.patch",
    "load_released_scorer": "stts_lightning.molmo2.released",
}

__all__ = [*_EXPORTS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
