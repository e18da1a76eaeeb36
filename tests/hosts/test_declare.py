from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from stts_lightning.config import CONF_DIR, host_names
from stts_lightning.hosts.declare import load_host


@pytest.mark.parametrize("name", host_names())
def test_every_host_loads_and_names_a_class_of_transformers(name: str) -> None:
    spec = load_host(name)
    assert spec.name == name and hasattr(transformers, spec.model_class)
    assert (spec.max_frames, spec.fps) == (64, 2.0)  # the paper's evaluation


def test_the_three_rows_of_table_1_are_there() -> None:
    assert {load_host(name).title for name in host_names()} == {"Qwen3-VL-4B", "PLM-8B", "InternVL3.5-8B"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_frame: 3", "'max_frame'.*Did you mean 'max_frames'"),
        ("max_frames: many", "max_frames.*many"),
        ("model_class: Qwen3VLGeneration", "'Qwen3VLGeneration'.*Did you mean 'Qwen3VLForConditionalGeneration'"),
        ("dtype: float8", "dtype='float8'"),
        ("max_pixels: 0", "greater than 0"),
        ("pretrained: ''", "pretrained is empty"),
    ],
)
def test_a_wrong_declaration_is_named_with_its_neighbour(tmp_path: Path, line: str, said: str) -> None:
    key = line.split(":")[0]
    shipped = (CONF_DIR / "host" / "qwen3_vl_4b.yaml").read_text().splitlines()
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join([*(row for row in shipped if not row.startswith(f"{key}:")), line]))
    with pytest.raises(ValueError, match=f"(?s)mine.yaml.*{said}"):
        load_host(path)


def test_an_unknown_host_is_named_with_its_neighbour() -> None:
    with pytest.raises(ValueError, match="'plm_7b'.*Did you mean 'plm_8b'"):
        load_host("plm_7b")
