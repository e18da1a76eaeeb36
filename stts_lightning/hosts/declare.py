"""What a comparison row is: one file of conf/host/, loaded strictly."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from stts_lightning.config.declaration import check_one_of, read_declaration


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
    spec, path = read_declaration(HostSpec, "host", name, [f.name for f in fields(HostSpec)])
    _check(spec, path)
    return spec


def _check(spec: HostSpec, path: Path) -> None:
    from stts_lightning.hosts.families import FAMILIES

    check_one_of(path, "model_class", spec.model_class, FAMILIES)
    check_one_of(path, "dtype", spec.dtype, ("bfloat16", "float16", "float32"))
    if min(spec.max_frames, spec.fps, spec.image_size, spec.patch_size, spec.max_pixels, spec.max_new_tokens) <= 0:
        raise ValueError(f"{path}: max_frames, fps, image_size, patch_size and the like must be greater than 0.")
    if not spec.pretrained:
        raise ValueError(f"{path}: pretrained is empty; it is the checkpoint's hub id or folder.")
