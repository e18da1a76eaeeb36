"""What a comparison row is: one file of conf/host/, loaded strictly."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from stts_lightning.config import CONF_DIR

HOST_DIR = CONF_DIR / "host"


@dataclass
class HostSpec:
    name: str = ""
    title: str = ""  # the paper's row
    pretrained: str = ""  # hub id or folder
    revision: str | None = None
    model_class: str = ""  # of transformers; decides how frames become inputs
    dtype: str = "bfloat16"
    max_frames: int = 64
    fps: float = 2.0
    image_size: int = 448  # pixels: the side of a square frame, or the longer side where the model keeps the aspect
    patch_size: int = 14  # of PerceptionLM, whose model configuration does not say
    image_mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    image_std: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])
    min_pixels: int = 0  # of all frames together, where the model keeps the aspect
    max_pixels: int = 25_165_824
    max_new_tokens: int = 12


def load_host(name: str | Path) -> HostSpec:
    """The declaration ``conf/host/<name>.yaml``, or any YAML file by its path.

    Raises:
        ValueError: no such host, an unknown key or a value that is not allowed; names the nearest valid one.
    """
    path = Path(name) if Path(name).suffix == ".yaml" else HOST_DIR / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"host {str(name)!r}: no such file {path}.{_near(str(name), host_names())}")
    merged = OmegaConf.structured(HostSpec)
    OmegaConf.set_struct(merged, True)
    try:
        spec = OmegaConf.to_object(OmegaConf.merge(merged, OmegaConf.load(path)))
    except ConfigKeyError as error:
        key = str(error.full_key)
        raise ValueError(f"{path}: unknown key {key!r}.{_near(key, tuple(f.name for f in fields(HostSpec)))}") from None
    except OmegaConfBaseException as error:
        raise ValueError(f"{path}: {error.full_key or '?'}: {str(error).splitlines()[0]}") from None
    assert isinstance(spec, HostSpec)
    _check(spec, path)
    return spec


def host_names() -> tuple[str, ...]:
    """The models that conf/host/ has a file of."""
    return tuple(sorted(path.stem for path in HOST_DIR.glob("*.yaml")))


def _check(spec: HostSpec, path: Path) -> None:
    from stts_lightning.hosts.families import FAMILIES

    for key, allowed in (("model_class", tuple(FAMILIES)), ("dtype", ("bfloat16", "float16", "float32"))):
        value = getattr(spec, key)
        if value not in allowed:
            raise ValueError(f"{path}: {key}={value!r} is not allowed.{_near(value, allowed)}")
    if min(spec.max_frames, spec.fps, spec.image_size, spec.patch_size, spec.max_pixels, spec.max_new_tokens) <= 0:
        raise ValueError(f"{path}: max_frames, fps, image_size, patch_size and the like must be greater than 0.")
    if not spec.pretrained:
        raise ValueError(f"{path}: pretrained is empty; it is the checkpoint's hub id or folder.")


def _near(word: str, words: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}? There are: {', '.join(words)}." if near else f" There are: {', '.join(words)}."
