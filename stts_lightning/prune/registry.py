"""The methods by name. A new one is a file in methods/ and a YAML in conf/method/."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

STAGES = ("embeddings", "block", "tokens", "merge", "pool")


class Host(NamedTuple):
    """What a method may know of the model that it prunes when it is built."""

    dim: int  # D, the ViT's width
    num_heads: int
    preset: str = "paper"
    seed: int = 0


class Method(NamedTuple):
    """``stage`` is where tokens leave and what the module reads to decide it:

    - `block`: the output of ViT block l, (T, N, D); the lowest scores leave after block l+1
    - `embeddings`: as `block`, on the ViT's input embeddings
    - `tokens`: the connector's output for all windows, (T, W, hidden); the whole ViT has run by then
    - `merge`: nothing leaves, windows of a frame are merged from block to block (`prune/tome.py`)
    - `pool`: nothing leaves, the connector pools larger windows (`prune/coarse.py`)
    """

    build: Callable[..., nn.Module]
    stage: str


_methods: dict[str, Method] = {}


def register(name: str, stage: str = "block") -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Make a module a method. It is built with a `Host` and what `prune.options` holds, and called with features and
    `Windows`; it returns `Scores`, one a window, the lowest to leave. It is a part of the model: its parameters
    are trained with the scorer's learning rate, saved and loaded.

    Raises:
        ValueError: the name is taken, or there is no such stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage={stage!r} of method {name!r} is not one of {', '.join(STAGES)}.")

    def add(build: type[nn.Module]) -> type[nn.Module]:
        known = _methods.get(name)
        if known is not None and (known.build.__module__, known.build.__qualname__) != (
            build.__module__,
            build.__qualname__,
        ):
            raise ValueError(f"method {name!r} is there already, in {known.build.__module__}. Choose another name.")
        _methods[name] = Method(build, stage)
        return build

    return add


def find_method(name: str) -> Method:
    """
    Raises:
        ValueError: no such method; names the nearest and what is missing.
    """
    if name not in _methods:
        _read_folder()
    if name not in _methods:
        near = difflib.get_close_matches(name, _methods, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"method={name!r} is registered by no file in stts_lightning/prune/methods/. "
            f"There are {', '.join(sorted(_methods))}.{hint}"
        )
    return _methods[name]


def _read_folder() -> None:
    import stts_lightning.prune.methods as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")


def build_scorer(name: str, host: Host, options: Mapping[str, Any] | None = None) -> nn.Module:
    """The module of a method. Initialised from ``host.seed`` alone: the global generator is left as it was.

    Raises:
        ValueError: no such method, or one that does not take these options.
    """
    method = find_method(name)
    with torch.random.fork_rng():
        torch.manual_seed(host.seed)
        try:
            scorer = method.build(host, **(options or {}))
        except TypeError as error:
            raise ValueError(f"prune.options={dict(options or {})} do not fit method {name!r}: {error}") from None
    return scorer
