"""A method by its name, and what a new one takes."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from stts_lightning.config import CONF_DIR, REPOSITORY, PruneConfig, load_config, method_names
from stts_lightning.prune import registry
from stts_lightning.prune.registry import Host, build_scorer, find_method, register

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def methods_as_before(monkeypatch):
    registry._read_folder()
    monkeypatch.setattr(registry, "_methods", dict(registry._methods))


def test_every_yaml_has_its_method_and_every_method_its_yaml():
    assert set(method_names()) == set(registry._methods)
    for name in method_names():
        config = load_config([f"method={name}"]).prune
        assert config.method == name
        assert isinstance(build_scorer(name, Host(8, 2), config.options), nn.Module)


def test_an_unknown_method_is_named_with_its_nearest():
    with pytest.raises(ValueError, match="'tom'.*Did you mean 'tome'"):
        find_method("tom")


def test_a_taken_name_and_an_unknown_stage_are_refused():
    with pytest.raises(ValueError, match="'stts' is there already"):
        register("stts")(nn.Identity)
    with pytest.raises(ValueError, match="stage='blok'"):
        register("mine", stage="blok")


def test_options_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="prune.options={'treshold': 0.5} do not fit method 'heuristic_reference'"):
        build_scorer("heuristic_reference", Host(8, 2), {"treshold": 0.5})
    with pytest.raises(ValueError, match="threshold=1.5"):
        build_scorer("heuristic_reference", Host(8, 2), {"threshold": 1.5})


def test_the_readme_s_new_method_prunes_as_written(tmp_path, monkeypatch, model, build_inputs):
    """Its two blocks, file and YAML, are taken from the README and put where it says."""
    blocks = re.findall(r"```(?:python|yaml)\n(.*?)```", README, re.S)
    code = next(block for block in blocks if '@register("brightness")' in block)
    yaml = next(block for block in blocks if "method: brightness" in block)
    assert len(code.strip().splitlines()) <= 20
    conf = tmp_path / "conf"
    for path in CONF_DIR.glob("*/*.yaml"):
        copy = conf / path.relative_to(CONF_DIR)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    (conf / "method/brightness.yaml").write_text(yaml)
    for module in ("paths", "load"):
        monkeypatch.setattr(f"stts_lightning.config.{module}.CONF_DIR", conf)
    file = tmp_path / "brightness.py"
    file.write_text(code)
    exec(compile(code, str(file), "exec"), {"__name__": "brightness"})

    from stts_lightning import apply_stts

    config = load_config(["method=brightness", "prune.percent=50", "prune.layer=0"])
    apply_stts(model, config.prune)
    inputs = build_inputs([4, 3])
    out = model(**inputs)
    assert out.pruning.kept_tokens == [18, 14]
    scores, keep = out.pruning.scores[0][1:], out.pruning.keep[0][1:]
    assert scores[keep].min() >= scores[~keep].max()


def test_configuration_knows_methods_from_their_files_alone():
    assert PruneConfig(method="tome").percent == 50
    assert PruneConfig(method="text_only", percent=30).percent == 100
    assert PruneConfig(method="none", percent=30).percent == 0
    assert Path(CONF_DIR / "method/tome.yaml").is_file()
    with pytest.raises(ValueError, match="prune.method='tomee'.*Did you mean 'tome'"):
        PruneConfig(method="tomee")


def test_what_a_method_takes_does_not_pass_to_the_next():
    from stts_lightning.config import with_method

    config = load_config(["method=heuristic_reference"])
    assert config.prune.options == {"threshold": 0.85}
    assert with_method(config, "stts").prune.options == {}


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_scorer("stts", Host(8, 2))
    assert torch.rand(1) == expected
