"""The experiment of domains and checkpoints, with runs that are made up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from databases import empty_database

from stts_lightning.config import load_config
from stts_lightning.experiment import domains
from stts_lightning.experiment.domains import own_settings, run_domains, sweep_of
from stts_lightning.report.measured import read_measured
from stts_lightning.runs import RunDir
from stts_lightning.sweep import run_sweep
from stts_lightning.sweep.plan import pretrain_config, sweep_folder

FAKE = (sys.executable, str(Path(__file__).parent / "report" / "fake_train.py"))


@pytest.fixture()
def faked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "run_sweep", lambda config: run_sweep(config, command=FAKE, calibrate=None))


def config_for(folder: Path, *overrides: str):
    tracking = [f"tracking.uri={empty_database(folder / 'm.db')}", f"tracking.artifacts={folder}/files"]
    small = ["sweep.methods=[stts_saliency]", "sweep.seeds=[0]", "pretrain.enabled=false", "sweep.unpruned=false"]
    return load_config([f"output_dir={folder}", *tracking, *small, *overrides], "saliency")


def test_a_checkpoint_and_a_domain_are_a_sweep_each_and_all_are_in_one_table(tmp_path: Path, faked: None) -> None:
    first = ["experiment.domains=[decoy]", "experiment.checkpoints=[0,1]", "sweep.percents=[50]"]
    assert run_domains(config_for(tmp_path, *first)) == 0
    text = (tmp_path / "experiments/saliency/tables.md").read_text()
    assert "| method | decoy, k = 50 |" in text and "(2)" in text  # of two checkpoints
    sheets = {file.name for file in (tmp_path / "experiments/saliency").glob("contact_sheet-*.png")}
    assert sheets == {"contact_sheet-decoy-k50.png"}
    later = ["experiment.domains=[flicker]", "experiment.checkpoints=[0]", "sweep.percents=[80]"]
    assert run_domains(config_for(tmp_path, *later)) == 0
    text = (tmp_path / "experiments/saliency/tables.md").read_text()
    assert "| method | decoy, k = 50 | flicker, k = 80 |" in text
    starts = list(tmp_path.glob("sweeps/*/*/starts"))
    assert len(starts) == 2 + 1 and all(len(path.read_text().splitlines()) == 1 for path in starts)


def test_other_settings_leave_the_tables_alone(tmp_path: Path, faked: None) -> None:
    one = ["experiment.domains=[main]", "experiment.checkpoints=[0]", "sweep.unpruned=false"]
    assert (
        run_domains(config_for(tmp_path, *one)) == run_domains(config_for(tmp_path, *one, "prune.preset=released")) == 0
    )
    tables = [path for path in (tmp_path / "experiments").glob("saliency-*/tables.md") if not path.parent.is_symlink()]
    assert len({path.parent.resolve() for path in tables}) == 2
    assert {run.settings for path in tables for run in read_measured([path.parent / "measured.csv"])} == {
        "", "prune.preset=released",
    }  # fmt: skip


def test_settings_are_what_the_experiment_s_file_does_not_say() -> None:
    assert own_settings(load_config(["sweep.percents=[50]", "seed=4", "prune.percent=30"], "saliency")) == ""
    assert own_settings(load_config(["aux.scorer_warmup_steps=0"], "saliency")) == "aux.scorer_warmup_steps=0"
    unnoisy = ["method=stts_saliency", "prune.options.noise=0", "aux.weight=2"]
    assert own_settings(load_config(unnoisy, "saliency")) == "prune.options.noise=0; aux.weight=2.0"


def test_a_sweep_that_fails_ends_the_experiment_with_its_status(tmp_path: Path, faked: None) -> None:
    asked = ["experiment.domains=[main,decoy]", "experiment.checkpoints=[0]", "sweep.seeds=[13]"]
    assert run_domains(config_for(tmp_path, *asked)) == 1
    assert len(list(tmp_path.glob("sweeps/tiny-*"))) == 1  # decoy was not begun


def test_checkpoints_differ_in_their_pretraining_and_domains_share_it() -> None:
    config = load_config(experiment="saliency")
    made = {
        (domain, checkpoint): pretrain_config(sweep_of(config, domain, checkpoint))
        for domain in (*config.experiment.domains, "mixed") for checkpoint in config.experiment.checkpoints
    }  # fmt: skip
    for checkpoint in config.experiment.checkpoints:
        assert made["main", checkpoint] == made["flicker", checkpoint] == made["decoy", checkpoint]
        assert made["mixed", checkpoint].data.generated.num_events == 6
        assert made["main", checkpoint].seed == made["main", checkpoint].backbone.tiny.seed == checkpoint
    folders = {sweep_folder(sweep_of(config, d, c)) for d in ("main", "flicker") for c in (0, 1)}
    assert len(folders) == 4 and RunDir(next(iter(folders))).path == next(iter(folders))
