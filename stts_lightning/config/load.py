"""Compose, check, read and save a configuration.

Dataclass defaults <- YAML groups in conf/ <- an experiment file <- a dot list. Every merge runs in OmegaConf's
struct mode, so an unknown key or a value of the wrong type is an error that names the key and its nearest valid
neighbour.
"""

from __future__ import annotations

import difflib
import functools
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from stts_lightning.config.paths import CONF_DIR, EXPERIMENTS_DIR
from stts_lightning.config.schema import Config

GROUPS = {
    "backbone": "tiny",
    "data": "generated",
    "domain": "main",
    "method": "stts",
    "trainer": "auto",
    "size": "full",
}


def load_config(overrides: list[str] | None = None, experiment: str | None = None) -> Config:
    """Compose a configuration.

    Args:
        overrides: ``group=name`` picks a file of conf/ (`backbone=molmo2_4b`), ``section.key=value`` sets
            one value (`prune.percent=40`). Later ones win.
        experiment: a name under experiments/ or a path to a YAML; it may pick groups under ``groups:``.

    Raises:
        ValueError: unknown key, group, file or a value of the wrong type; the message names it and the
            nearest valid one.
    """
    overrides = list(overrides or [])
    groups = dict(GROUPS)
    layers: list[tuple[str, Any]] = []
    if experiment is not None:
        path = _experiment_path(experiment)
        body = read_yaml(path)
        for group, name in (body.pop("groups", None) or {}).items():
            _known_group(group, str(path))
            groups[group] = name
        layers += [(str(path), body), (str(path), {"experiment": {"name": path.stem}})]
    dots = []
    for item in overrides:
        key, separator, value = item.partition("=")
        if not separator:
            raise ValueError(f"{item!r} is not key=value.")
        if "." not in key and key in GROUPS:
            groups[key] = value
        else:
            dots.append(item)
    files = [_group_path(group, name) for group, name in groups.items()]
    layers = [(str(path), read_yaml(path)) for path in files] + layers
    layers += [(item, OmegaConf.from_dotlist([item])) for item in dots]
    return _merge(layers)


def with_method(config: Config, method: str) -> Config:
    """The same run with another method: what conf/method/<method>.yaml says wins over ``config``.

    One that has the method already is returned as it is, with the options that it was given.
    """
    if config.prune.method == method:
        return config
    path = _group_path("method", method)
    body = as_dict(config)
    body["prune"]["options"] = {}  # of the method that it had
    return _merge([("configuration", body), (str(path), read_yaml(path))])


def with_domain(config: Config, domain: str) -> Config:
    """The same run on another of the generated set's domains: what conf/domain/<domain>.yaml says wins."""
    path = _group_path("domain", domain)
    return _merge([("configuration", as_dict(config)), (str(path), read_yaml(path))])


def read_config(path: str | Path) -> Config:
    """Read a whole configuration that `save_config` wrote; strict."""
    return _merge([(str(path), read_yaml(Path(path)))])


def save_config(config: Config, path: str | Path) -> None:
    """Write every value of ``config`` as YAML, for `read_config`."""
    aside = Path(f"{path}.{os.getpid()}.part")  # another process of the same run may be reading it
    aside.write_text(OmegaConf.to_yaml(OmegaConf.create(as_dict(config))), encoding="utf-8")
    os.replace(aside, path)


def as_dict(config: Any) -> dict[str, Any]:
    """Plain nested containers: what checkpoints and MLflow may hold."""
    return asdict(config)


def flatten(config: Config) -> dict[str, Any]:
    """``{"prune.percent": 50.0, ...}``, for MLflow's parameters."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(f"{prefix}.{key}" if prefix else key, value)
        else:
            flat[prefix] = node

    walk("", as_dict(config))
    return flat


def _merge(layers: list[tuple[str, Any]]) -> Config:
    merged: Any = _defaults()
    for source, layer in layers:
        if merged is _defaults():  # most of a saved configuration, which OmegaConf need not merge key by key
            layer = _without(_default_values(), layer)
        try:
            merged = OmegaConf.merge(merged, layer)
        except ConfigKeyError as error:
            raise ValueError(_unknown_key(source, error)) from None
        except OmegaConfBaseException as error:
            key = error.full_key or "?"
            raise ValueError(f"{source}: {key}: {str(error).splitlines()[0]}") from None
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config)
    return config


@functools.cache
def _defaults() -> DictConfig:
    """To merge into a copy of. Made once, for that takes as long as all the merging."""
    defaults: DictConfig = OmegaConf.structured(Config)
    OmegaConf.set_struct(defaults, True)
    OmegaConf.set_struct(defaults.prune.options, False)  # a method's own keys; its class refuses those that it lacks
    return defaults


@functools.cache
def _default_values() -> dict[str, Any]:
    return as_dict(Config())


def _without(known: Any, layer: Any) -> Any:
    """``layer`` without the keys whose value is the ``known`` one."""
    if not isinstance(layer, dict) or not isinstance(known, dict):
        return layer
    same = {key for key, value in layer.items() if key in known and _identical(value, known[key])}
    return {key: _without(known.get(key), value) for key, value in layer.items() if key not in same}


def _identical(one: Any, other: Any) -> bool:
    """Equal and of the same type, so that 1 is not 1.0, in all that they contain."""
    return repr(one) == repr(other)


def _unknown_key(source: str, error: ConfigKeyError) -> str:
    valid = list(flatten(Config()))
    sections = sorted({key.rsplit(".", i)[0] for key in valid for i in range(1, key.count(".") + 1)})
    key = str(error.full_key)
    near = [name for name in valid if name.split(".")[-1] == key.split(".")[-1]]  # the right name, misplaced
    near = near or difflib.get_close_matches(key, valid + sections, n=1, cutoff=0.4)
    hint = f" Did you mean {' or '.join(map(repr, near[:3]))}?" if near else ""
    return f"{source}: unknown configuration key {key!r}.{hint}"


def _known_group(group: str, source: str) -> None:
    if group not in GROUPS:
        raise ValueError(f"{source}: unknown group {group!r}; the groups are {', '.join(GROUPS)}.")


def _group_path(group: str, name: str) -> Path:
    path = CONF_DIR / group / f"{name}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in (CONF_DIR / group).glob("*.yaml"))
        near = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{group}={name}: no such file {path}. There are: {', '.join(names)}.{hint}")
    return path


def _experiment_path(experiment: str) -> Path:
    path = Path(experiment)
    if path.suffix not in (".yaml", ".yml"):
        path = EXPERIMENTS_DIR / f"{experiment}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in EXPERIMENTS_DIR.glob("*.yaml"))
        raise ValueError(f"experiment {experiment!r}: no such file {path}. There are: {', '.join(names)}.")
    return path


def read_yaml(path: Path) -> Any:
    """Plain containers: no tag of a file makes an object, and no code of it runs.

    Raises:
        ValueError: no such file, or not YAML of that kind.
    """
    try:
        return OmegaConf.to_container(OmegaConf.load(path)) or {}
    except FileNotFoundError:
        raise ValueError(f"no configuration file at {path}.") from None
    except Exception as error:  # a YAML parser's own exception types
        raise ValueError(f"{path}: not a readable YAML file: {error}") from None
