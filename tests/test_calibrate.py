from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from stts_lightning.config import Config, load_config
from stts_lightning.sweep.estimate import Calibration, calibrated, clips
from stts_lightning.sweep.main import CALIBRATE


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(["trainer.accelerator=cpu"])


def test_machine_is_measured_on_real_clips(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    measured = calibrated(config, CALIBRATE)
    assert measured is not None
    assert set(measured.step_s) == {str(config.trainer.num_threads), str(config.pretrain.num_threads)}
    assert min(measured.make_s, measured.read_s, measured.start_s, *measured.step_s.values()) > 0
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_estimate_grows_with_the_work(config: Config) -> None:
    measured = Calibration(make_s=0.02, read_s=0.01, step_s={"1": 0.03, "2": 0.02}, start_s=10)
    plain = replace(config, aux=replace(config.aux, scorer_warmup_steps=0))
    longer = replace(plain, optim=replace(plain.optim, steps=2 * plain.optim.steps))
    assert measured.run(longer) - measured.run(plain) == pytest.approx(clips(plain) * 0.03)
    assert measured.making(config, cores=2) == pytest.approx(3150 * 0.02 / 2)


@pytest.mark.parametrize("script", ["print('no numbers')", "import sys; sys.exit(3)"])
def test_failed_measurement_is_no_estimate(config: Config, script: str) -> None:
    assert calibrated(config, [sys.executable, "-c", script]) is None


def test_checkpoint_of_real_size_is_not_loaded_for_an_estimate() -> None:
    never = [sys.executable, "-c", "raise SystemExit('started')"]
    assert calibrated(load_config(["backbone=molmo2_4b"]), never) is None
