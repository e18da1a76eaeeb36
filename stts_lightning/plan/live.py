"""What a step on `meta` tensors would hold in memory, and automatic mixed precision for them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

BLOCK = 512  # bytes: CUDA's caching allocator gives out whole ones


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and the most there ever were.

    A few lines instead of torch's `MemTracker`, which gives the same peak (a test compares them) and takes ten times as
    long, because it also knows whose memory it is. Storages of ``known`` tensors do not count: the weights, of which
    views come by.

    Args:
        width: bytes of a bfloat16 number; 4 tells what the same step in float32 would hold.
    """

    def __init__(self, known: Iterable[Tensor] = (), width: int = 2) -> None:
        super().__init__()
        self.live, self.peak, self.width = 0, 0, width
        self._seen: dict[int, Any] = {t.untyped_storage()._cdata: None for t in known}

    def count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        scale = self.width / 2 if tensor.dtype == torch.bfloat16 else 1
        size = -(-int(storage.nbytes() * scale) // BLOCK) * BLOCK
        self._seen[key] = weakref.finalize(storage, self._freed, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _freed(self, key: int, size: int) -> None:
        del self._seen[key]
        self.live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_iter(out):
            if isinstance(x, Tensor):
                self.count(x)
        return out


class Autocast(TorchFunctionMode):
    """`torch.autocast` to bfloat16 for `meta`, which has none: the same rules for the functions that Molmo2 calls.

    Weights are cast once, and as autocast does it the copies are kept until the forward pass has left its context.
    `again` is for checkpointed blocks, which run a second time in the backward pass.
    """

    PRODUCTS: tuple[Callable[..., Any], ...] = (
        F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm,
    )  # fmt: skip
    IN_FLOAT32: tuple[Callable[..., Any], ...] = (
        F.layer_norm, F.softmax, torch.softmax, Tensor.softmax, F.cross_entropy, F.cosine_similarity,
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.copies: dict[int, Tensor] | None = {}

    def again(self) -> tuple[AbstractContextManager[None], Autocast]:
        """What `torch.utils.checkpoint` takes as ``context_fn``: nothing new the first time, this the second time."""
        return nullcontext(), self

    def leave_forward(self) -> None:
        self.copies = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.PRODUCTS:
            args = tuple(self._cast(x, torch.bfloat16) for x in args)
        elif func in self.IN_FLOAT32:
            args = tuple(self._cast(x, torch.float32) for x in args)
        return func(*args, **(kwargs or {}))

    def _cast(self, x: Any, dtype: torch.dtype) -> Any:
        if not isinstance(x, Tensor) or not x.is_floating_point() or x.dtype == dtype:
            return x
        if self.copies is None or not (x.is_leaf and x.requires_grad):
            return x.to(dtype)
        if id(x) not in self.copies:
            self.copies[id(x)] = x.to(dtype)
        return self.copies[id(x)]
