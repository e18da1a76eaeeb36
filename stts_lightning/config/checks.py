"""Checks of single values; the messages name the key, the value and what is allowed."""

from __future__ import annotations

import difflib


def one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{key}={value!r} is not one of {', '.join(allowed)}.{hint}")


def positive(key: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{key}={value} must be greater than 0.")
