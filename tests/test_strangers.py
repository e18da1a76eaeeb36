"""Files that somebody else made, each with code inside that would leave a mark if it ran."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import yaml
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING

from stts_lightning.benchmark.declare import load_benchmark
from stts_lightning.config import load_config, read_config, save_config
from stts_lightning.convert import convert
from stts_lightning.data.cache import _load as load_clip
from stts_lightning.hosts.declare import load_host
from stts_lightning.lit.checkpoints import seal
from stts_lightning.lit.trust import no_code_from
from stts_lightning.molmo2.checkpoint import load_pruned, save_pruned
from stts_lightning.molmo2.load import load_backbone
from stts_lightning.molmo2.patch import apply_stts
from stts_lightning.runs import RunDir
from stts_lightning.train import made_by, train

SMALL = [
    "tracking.enabled=false", "trainer.accelerator=cpu", "trainer.progress=false", "pretrain.enabled=false",
    "data.generated.train_videos=4", "data.generated.eval_videos=2", "optim.steps=2", "optim.batch_size=2",
    "aux.scorer_warmup_steps=0", "data.frame_cache_dir=null",
]  # fmt: skip


class Code:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return shutil.copyfile, ("/dev/null", str(self.mark))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run's folder with nothing but its configuration."""
    folder = RunDir(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    save_config(load_config([*SMALL, f"data.generated.root={tmp_path / 'set'}"]), folder.config)
    return folder


def yaml_with_code(mark: Path) -> str:
    return f"seed: !!python/object/apply:shutil.copyfile ['/dev/null', '{mark}']\n"


def test_the_marks_are_left_by_those_who_trust(tmp_path: Path, mark: Path) -> None:
    """Else the other tests would prove nothing."""
    pickle.loads(pickle.dumps(Code(mark)))
    assert mark.exists()
    mark.unlink()
    yaml.unsafe_load(yaml_with_code(mark))
    assert mark.exists()
    mark.unlink()
    torch.save(Code(mark), tmp_path / "x")
    torch.load(tmp_path / "x", weights_only=False)
    assert mark.exists()


@pytest.mark.parametrize(
    "read",
    [read_config, lambda path: load_config(experiment=str(path)), load_benchmark, load_host],
    ids=["run", "experiment", "benchmark", "host"],
)
def test_yaml_is_data(read: Callable[[Path], Any], tmp_path: Path, mark: Path) -> None:
    file = tmp_path / "strange.yaml"
    file.write_text(yaml_with_code(mark))
    with pytest.raises(ValueError, match=r"strange\.yaml"):
        read(file)
    assert not mark.exists()


def plain(checkpoint: Path, code: Code) -> None:
    torch.save({"state_dict": {}, "loops": code}, checkpoint)


def of_zero(checkpoint: Path, code: Code) -> None:
    (checkpoint / "checkpoint").mkdir(parents=True)
    torch.save({"module": code}, checkpoint / "checkpoint" / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": code}, checkpoint / "checkpoint" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")


def of_fsdp_in_its_metadata(checkpoint: Path, code: Code) -> None:
    checkpoint.mkdir()
    (checkpoint / ".metadata").write_bytes(pickle.dumps(code))
    torch.save({}, checkpoint / "meta.pt")


def of_fsdp_in_its_values(checkpoint: Path, code: Code) -> None:
    config = load_config([])
    handle = apply_stts(load_backbone(config.backbone).model, config.prune)
    weights = {f"model.{name}": value for name, value in handle.model.state_dict().items()}
    dcp.save({"state_dict": weights | {"model.lm_head.weight": code}}, checkpoint_id=checkpoint, no_dist=True)


@pytest.mark.parametrize("write", [plain, of_zero, of_fsdp_in_its_metadata, of_fsdp_in_its_values])
def test_a_checkpoint_is_data_when_it_is_converted(
    write: Callable[[Path, Code], None], run: RunDir, mark: Path
) -> None:
    checkpoint = run.checkpoints / "step=1.ckpt"
    write(checkpoint, Code(mark))
    seal(checkpoint)
    with pytest.raises(ValueError, match=r"step=1\.ckpt is refused.*shutil\.copyfile|step=1\.ckpt is of another model"):
        convert(run.path)
    assert not mark.exists()


class Attribute:
    """As Python 3.11.2 pickles a member of an enumeration."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return getattr, (self.owner, self.name)


@pytest.mark.parametrize("kind", ["fsdp", "zero"])
def test_getattr_is_for_members_of_enumerations_alone(tmp_path: Path, kind: str) -> None:
    from deepspeed.runtime.zero.config import ZeroStageEnum

    def read(owner: Any, name: str) -> Any:
        checkpoint = tmp_path / f"{kind}-{name}"
        checkpoint.mkdir()
        file = checkpoint / (".metadata" if kind == "fsdp" else "weights.pt")
        if kind == "fsdp":
            file.write_bytes(pickle.dumps(Attribute(owner, name)))
        else:
            torch.save(Attribute(owner, name), file)
        with no_code_from(checkpoint):
            return pickle.loads(file.read_bytes()) if kind == "fsdp" else torch.load(file)

    enum, member = (_MEM_FORMAT_ENCODING, "TORCH_CHANNELS_LAST") if kind == "fsdp" else (ZeroStageEnum, "weights")
    assert read(enum, member) is enum[member]
    for owner, name in ((enum, "__subclasses__"), (torch.Size, "numel")):
        with pytest.raises(ValueError, match=f"{kind}-{name} is refused.*{name}"):
            read(owner, name)


def test_a_checkpoint_is_data_when_a_run_goes_on_from_it(run: RunDir, mark: Path) -> None:
    config = read_config(run.config)
    checkpoint = run.checkpoints / "step=1.ckpt"
    plain(checkpoint, Code(mark))
    seal(checkpoint, made_by(config))
    with pytest.raises(ValueError, match=r"step=1\.ckpt is refused.*shutil\.copyfile"):
        train(config, run.path)
    assert not mark.exists() and checkpoint.exists()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = load_config([])
    backbone = load_backbone(config.backbone)
    save_pruned(apply_stts(backbone.model, config.prune), backbone.tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_pickled_weights_of_a_model_are_not_read(model: Path, mark: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save(Code(mark), model / "pytorch_model.bin")
    with pytest.raises(OSError, match="model.safetensors"):
        load_pruned(model)
    assert not mark.exists()


def test_code_in_the_folder_of_a_model_stays_there(model: Path, mark: Path) -> None:
    (model / "own.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    for name, classes in (("config.json", ("Config", "ForConditionalGeneration")), ("tokenizer_config.json", ())):
        body = json.loads((model / name).read_text())
        body["auto_map"] = {f"Auto{part}": f"own.{part}" for part in ("Config", "Model", *classes)}
        body["auto_map"]["AutoTokenizer"] = ["own.Tokenizer", "own.Tokenizer"]
        (model / name).write_text(json.dumps(body))
    load_pruned(model)
    load_backbone(load_config([]).backbone, str(model))
    assert not mark.exists()


def test_a_clip_in_the_cache_is_data(tmp_path: Path, mark: Path) -> None:
    frames = np.empty(1, dtype=object)
    frames[0] = Code(mark)
    np.savez(tmp_path / "clip.npz", frames=frames)
    assert load_clip(tmp_path / "clip.npz") is None  # so that it is decoded
    assert not mark.exists()
