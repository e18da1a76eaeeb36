"""Checkpoints that others made are data: nothing in one runs as code."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from pathlib import Path
from typing import Any

import torch

METADATA = ".metadata"  # of a distributed checkpoint (FSDP2), which torch unpickles whatever it holds
ITS_CLASSES = {
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.serialization": ("_get_layout",),
    "pathlib": ("PosixPath", "WindowsPath"),
    "torch": ("Size", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))),
}  # fmt: skip


@contextmanager
def no_code_from(checkpoint: Path | None) -> Iterator[None]:
    """In here nothing that is read of ``checkpoint`` runs code, also where a library would let it: DeepSpeed and
    torch's distributed checkpoints do.

    Args:
        checkpoint: a file or a folder; None for a run that begins.

    Raises:
        ValueError: it holds more than weights and plain values; names what.
    """
    if checkpoint is None:
        yield
        return
    before, metadata = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD"), checkpoint / METADATA
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        if metadata.is_file():
            with metadata.open("rb") as file:
                _Metadata(file).load()
        with nullcontext() if checkpoint.is_file() or metadata.is_file() else _of_deepspeed():
            yield
    except pickle.UnpicklingError as error:
        said = next((line for line in str(error).splitlines() if "GLOBAL" in line), str(error).splitlines()[0])
        raise ValueError(
            f"{checkpoint} is refused, for it holds what is neither a weight nor a plain value and would run as code: "
            f"{said.strip()}. Take a checkpoint that this program wrote, or its model/ folder."
        ) from None
    finally:
        os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        if before is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before


def _member(kind: Any, name: str) -> Enum:
    """Stands in for ``getattr``, as which some releases of Python (3.11.2) pickle a member of an enumeration."""
    if isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__:
        return kind[name]
    raise pickle.UnpicklingError(f"GLOBAL builtins.getattr is asked for {name} of {kind}")


class _Metadata(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        if name not in ITS_CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"{METADATA} asks for {module}.{name}")
        return super().find_class(module, name)


def _of_deepspeed() -> Any:
    """What its checkpoints hold besides tensors."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return torch.serialization.safe_globals(
        [LossScaler, ZeroStageEnum, fragment_address, (_member, "builtins.getattr")]
    )
