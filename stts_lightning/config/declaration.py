"""Files of conf/ that declare something and are no part of a run's configuration: benchmarks, hosts."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from stts_lightning.config.load import read_yaml
from stts_lightning.config.paths import CONF_DIR

T = TypeVar("T")


def read_declaration(
    kind: type[T],
    group: str,
    name: str | Path,
    known_keys: Iterable[str],
    open_parts: Callable[[DictConfig], Iterable[Any]] = lambda _: (),
) -> tuple[T, Path]:
    """The dataclass that ``conf/<group>/<name>.yaml`` fills, or any YAML file by its path, and that path.

    Args:
        known_keys: of ``kind`` and its parts, for the message.
        open_parts: those whose keys are names of the file's own.

    Raises:
        ValueError: no such file, an unknown key or a value of the wrong type; names the nearest valid one.
    """
    path = Path(name)
    if path.suffix != ".yaml":
        path = CONF_DIR / group / f"{name}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in (CONF_DIR / group).glob("*.yaml"))
        raise ValueError(f"{group} {str(name)!r}: no such file {path}.{near(str(name), names)} {listed(names)}")
    body = read_yaml(path)
    merged = OmegaConf.structured(kind)
    OmegaConf.set_struct(merged, True)
    for part in open_parts(merged):
        OmegaConf.set_struct(part, False)
    try:
        found = OmegaConf.to_object(OmegaConf.merge(merged, body))
    except ConfigKeyError as error:
        key = str(error.full_key)
        raise ValueError(f"{path}: unknown key {key!r}.{near(key.split('.')[-1], known_keys)}") from None
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {error.full_key or '?'}: {str(error).splitlines()[0]}") from None
    assert isinstance(found, kind)
    return found, path


def check_one_of(path: Path, key: str, value: str, allowed: Iterable[str]) -> None:
    """Raise ValueError, naming the file and the nearest, unless ``value`` is allowed."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{path}: {key}={value!r} is not allowed.{near(value, allowed)} {listed(allowed)}")


def near(word: str, words: Iterable[str]) -> str:
    """A hint at the nearest of the words, or nothing."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.4)
    return f" Did you mean {found[0]!r}?" if found else ""


def listed(words: Iterable[str]) -> str:
    return f"There are: {', '.join(words)}."
