"""Which checkpoint a run goes on from: the newest that is as it was sealed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stts_lightning.lit.checkpoints import newest_sealed, seal


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """Two sealed files and, newest of all, a sealed folder, as sharded strategies write them."""
    for step in (9, 20):  # 9 is older, though its name is the larger word
        (tmp_path / f"step={step}.ckpt").write_bytes(os.urandom(100))
        seal(tmp_path / f"step={step}.ckpt")
    (tmp_path / "step=30.ckpt/shards").mkdir(parents=True)
    for name in ("meta", "shards/0", "shards/1"):
        (tmp_path / "step=30.ckpt" / name).write_bytes(os.urandom(50))
    seal(tmp_path / "step=30.ckpt")
    return tmp_path


def found(folder: Path) -> tuple[str | None, list[str]]:
    said: list[str] = []
    path = newest_sealed(folder, said.append)
    return None if path is None else path.name, said


def test_newest_is_by_step_and_nothing_is_said(folder: Path) -> None:
    assert found(folder) == ("step=30.ckpt", [])
    assert found(folder / "nowhere") == (None, [])


def test_damage_to_any_file_of_it_leads_to_the_one_before(folder: Path) -> None:
    shard = folder / "step=30.ckpt/shards/1"
    shard.write_bytes(shard.read_bytes()[:-1])  # cut short by one byte
    name, said = found(folder)
    assert name == "step=20.ckpt" and len(said) == 1
    assert "step=30.ckpt: not as it was written: step=30.ckpt/shards/1." in said[0]
    assert not (folder / "step=30.ckpt").exists() and found(folder) == ("step=20.ckpt", [])


def test_a_shard_that_is_missing_or_new_is_damage(folder: Path) -> None:
    (folder / "step=30.ckpt/shards/2").write_bytes(b"?")
    assert found(folder)[0] == "step=20.ckpt"


def test_a_checkpoint_without_a_seal_or_with_half_of_one_is_passed_over(folder: Path) -> None:
    (folder / "step=40.ckpt").write_bytes(b"half")
    (folder / "step=30.ckpt.sha256").write_text('{"step=30.c')
    name, said = found(folder)
    assert name == "step=20.ckpt"
    assert "step=40.ckpt: it was never finished" in said[0] and "step=30.ckpt: its seal is damaged" in said[1]


def test_where_none_is_whole_there_is_none(folder: Path) -> None:
    for file in folder.glob("*.sha256"):
        file.unlink()
    name, said = found(folder)
    assert name is None and len(said) == 3 and not list(folder.glob("step=*"))
