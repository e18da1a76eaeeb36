from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from stts_lightning.config import (
    CONF_DIR,
    EXPERIMENTS_DIR,
    GROUPS,
    Config,
    PruneConfig,
    flatten,
    load_config,
    read_config,
    save_config,
    with_domain,
    with_method,
)

GROUP_FILES = [(path.parent.name, path.stem) for group in GROUPS for path in sorted((CONF_DIR / group).glob("*.yaml"))]
EXPERIMENT_FILES = sorted(path.stem for path in EXPERIMENTS_DIR.glob("*.yaml"))


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_a_teacher_needs_whole_weights(strategy: str) -> None:
    with pytest.raises(ValueError, match=f"prune.method=stts_distill.*trainer.strategy={strategy}.*zero2"):
        load_config(["method=stts_distill", f"trainer.strategy={strategy}"])


@pytest.mark.parametrize(("group", "name"), GROUP_FILES)
def test_every_group_file_loads(group: str, name: str) -> None:
    assert isinstance(load_config([f"{group}={name}"]), Config)


@pytest.mark.parametrize("name", EXPERIMENT_FILES)
def test_every_experiment_loads_and_opens_with_its_command(name: str) -> None:
    assert isinstance(load_config(experiment=name), Config)
    assert (EXPERIMENTS_DIR / f"{name}.yaml").read_text().startswith("# make ")


def test_every_group_has_its_default_and_every_method_a_file() -> None:
    assert {(group, name) for group, name in GROUPS.items()} <= set(GROUP_FILES)


def test_later_layers_win(tmp_path: Path) -> None:
    experiment = tmp_path / "mine.yaml"
    experiment.write_text("groups:\n  backbone: molmo2_4b\noptim:\n  steps: 7\nseed: 3\n")
    config = load_config(["optim.steps=9"], str(experiment))
    assert (config.backbone.pretrained, config.optim.steps, config.seed) == ("allenai/Molmo2-4B", 9, 3)
    assert load_config(["backbone=tiny"], str(experiment)).backbone.name == "tiny"


def test_paper_recipe_is_the_big_backbones(tmp_path: Path) -> None:
    config = load_config(["backbone=molmo2_4b"])
    optim = config.optim
    assert (optim.steps, optim.batch_size * optim.accumulate, optim.warmup_steps) == (6250, 64, 200)
    assert (optim.lr_language, optim.lr_vision, optim.lr_scorer) == (1e-5, 5e-6, 1e-4)
    assert (config.prune.layer, config.prune.preset, config.video.fps, config.video.max_frames) == (3, "paper", 2, 64)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("prune.percnt=50", "'prune.percnt'.*'prune.percent'"),
        ("optm.steps=5", "'optm'.*'optim'"),
        ("prune.steps=5", "'prune.steps'.*'optim.steps' or 'pretrain.steps'"),
        ("optim.steps=many", "optim.steps.*many"),
        ("prune.percent=half", "prune.percent.*half"),
        ("prune.percent=101", "prune.percent=101.*0..100"),
        ("prune.method=stss", "'stss'.*Did you mean 'stts'"),
        ("backbone=tinny", "backbone=tinny.*Did you mean 'tiny'"),
        ("sweep.methods=[stts,guess]", "'guess'"),
        ("video.resize=decorder", "'decorder'.*Did you mean 'decoder'"),
        ("nonsense", "not key=value"),
        ("tracking.uri=file:./mlruns", "file store"),
        ("benchmark.names=[nextqa]", "'nextqa'.*Did you mean 'next_qa'"),
        ("benchmark.control=blind", "'blind'"),
        ("backbone.image_size=50", "image_size=50.*patch_size=4"),
    ],
)
def test_wrong_key_or_value_is_named_with_its_neighbour(override: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){said}"):
        load_config([override])


def test_wrong_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("prune:\n  precent: 50\n")
    with pytest.raises(ValueError, match=r"mine\.yaml.*'prune\.precent'.*'prune\.percent'"):
        load_config(experiment=str(path))


def test_saved_configuration_comes_back_whole(tmp_path: Path) -> None:
    config = load_config(["prune.percent=33.3", "seed=4", "init_from=some/model"])
    save_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_none_prunes_nothing_whatever_the_percentage() -> None:
    assert PruneConfig(method="none", percent=50).percent == 0
    assert with_method(load_config(["prune.percent=50"]), "none").prune.percent == 0


def test_method_file_wins_over_the_configuration() -> None:
    config = load_config(["optim.steps=5"])
    other = with_method(config, "random")
    assert other.prune.method == "random"
    changed = {key for key, value in flatten(config).items() if flatten(other)[key] != value}
    assert changed == {"prune.method"}


def test_a_method_keeps_its_options_and_gives_none_to_another() -> None:
    config = load_config(["method=stts_saliency", "prune.options.noise=0.5"])
    assert with_method(config, "stts_saliency").prune.options == {"noise": 0.5}
    assert with_method(config, "stts_distill").prune.options == {}


def test_a_domain_wins_over_the_configuration_and_changes_nothing_else() -> None:
    config = load_config(["optim.steps=5", "data.generated.train_videos=9"])
    other = with_domain(config, "decoy")
    assert other.data.generated.num_decoys == 5 and with_domain(other, "main") == config
    with pytest.raises(ValueError, match="pretrain.domain='flikker'.*Did you mean 'flicker'"):
        load_config(["pretrain.domain=flikker"])


def test_flatten_names_every_value_once() -> None:
    flat = flatten(Config())
    assert flat["backbone.tiny.vit_hidden"] == 32 and flat["seed"] == 0
    assert not any(dataclasses.is_dataclass(value) for value in flat.values())
