"""The sweep with a stand-in for training: real processes, made-up numbers."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stts_lightning.config import REPOSITORY, Config, OptimConfig, PretrainConfig, SweepConfig, TrackingConfig
from stts_lightning.runs import RunDir, read_result
from stts_lightning.sweep import pool as pool_module
from stts_lightning.sweep import run_sweep
from stts_lightning.sweep.estimate import Clock, clock_from
from stts_lightning.sweep.plan import plan, pretrain_config, pretrain_job, sweep_folder
from stts_lightning.sweep.pool import slots
from stts_lightning.sweep.progress import Bars, Running
from stts_lightning.sweep.run import Run, run_config

FAKE_TRAIN = (sys.executable, str(REPOSITORY / "tests" / "report" / "fake_train.py"))
COLUMNS = (
    "method,prune_percent,seed,accuracy,accuracy_stderr,kept_tokens,samples_per_second,peak_memory_gib,"
    "layer,variant,max_frames"
)


def a_config(out: Path, *, percents: list[float] | None = None, seeds: list[int] | None = None, **keys: Any) -> Config:
    sweep = SweepConfig(percents=percents or [50.0], methods=["stts"], seeds=seeds or [0], jobs=2)
    return Config(output_dir=str(out), sweep=sweep, tracking=TrackingConfig(enabled=False), **keys)


def call(config: Config, **keys: Any) -> tuple[int, str]:
    """Exit status and what was printed."""
    console = Console(file=io.StringIO(), width=100, **keys)
    status = run_sweep(config, command=FAKE_TRAIN, calibrate=None, console=console)
    return status, console.file.getvalue()


def starts(folder: Path) -> list[dict[str, str]]:
    """The environment of each start of a run, in order."""
    return [json.loads(line) for line in (folder / "starts").read_text().splitlines()]


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_plans_one_baseline_a_seed_and_every_method_and_percentage_once(tmp_path: Path) -> None:
    config = a_config(tmp_path, percents=[30.0, 30.0, 100.0], seeds=[0, 1])
    config = replace(config, sweep=replace(config.sweep, methods=["stts", "none", "random"]))

    jobs = plan(config, tmp_path)

    names = [job.name for job in jobs]
    assert names[:2] == ["none-seed0", "none-seed1"] and len(set(names)) == len(names) == 2 + 2 * 2 * 2
    job = jobs[names.index("random-k100-seed1")].config
    assert (job.prune.method, job.prune.percent, job.seed, job.prune.seed) == ("random", 100, 1, 1)


def test_writes_the_table_the_figures_and_the_link_to_the_newest(tmp_path: Path) -> None:
    status, said = call(a_config(tmp_path))

    newest = tmp_path / "sweeps" / "latest"
    lines = (newest / "results.csv").read_text().splitlines()
    assert status == 0
    assert lines[0] == COLUMNS
    assert [line.split(",")[0] for line in lines[1:]] == ["none", "stts"]
    assert "| stts " in (newest / "results.md").read_text()
    for figure in ("accuracy.png", "contact_sheet.png"):
        assert (newest / figure).read_bytes().startswith(b"\x89PNG")
    assert "[2/2] stts k=50 %" in said and "results.csv" in said


def test_skips_what_has_finished_and_only_adds_another_percentage(tmp_path: Path) -> None:
    assert call(a_config(tmp_path))[0] == 0
    status, said = call(a_config(tmp_path, percents=[30.0]))

    folder = sweep_folder(a_config(tmp_path))
    assert status == 0 and "finished: none-seed0" in said
    assert [len(starts(folder / name)) for name in ("none-seed0", "stts-k50-seed0", "stts-k30-seed0")] == [1, 1, 1]
    assert len((folder / "results.csv").read_text().splitlines()) == 4  # the earlier percentage is in the table still
    assert "This will take about" in said  # the first call has measured it
    assert clock_from(a_config(tmp_path)).measured.keys() == {"none", "stts"}
    assert not clock_from(a_config(tmp_path, optim=OptimConfig(batch_size=3))).measured  # another pace


def test_reports_a_failed_run_while_the_others_go_on(tmp_path: Path) -> None:
    config = a_config(tmp_path, seeds=[0, 13])
    status, said = call(config)

    folder = sweep_folder(config)
    assert status == 1
    assert "FAILED stts-k50-seed13: exit status 1" in said and "no such luck" in said
    assert str(folder / "stts-k50-seed13" / "log.txt") in said
    assert read_result(folder / "stts-k50-seed0") is not None
    assert "`stts-k50-seed13`" in (folder / "results.md").read_text()
    assert "seed13" not in (folder / "results.csv").read_text()


def in_a_process(config: Config, log: Path) -> subprocess.Popen[bytes]:
    """A sweep that can be killed, for seeds that never end by themselves."""
    code = (
        "import sys; from stts_lightning.config import *; from stts_lightning.sweep import run_sweep\n"
        f"config = Config(output_dir={config.output_dir!r}, tracking=TrackingConfig(enabled=False),\n"
        f"    sweep=SweepConfig(**{vars(config.sweep)!r}))\n"
        f"sys.exit(run_sweep(config, command={FAKE_TRAIN!r}, calibrate=None))"
    )
    with log.open("wb") as out:
        return subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=out, stderr=subprocess.STDOUT)


def pid_of(folder: Path) -> int | None:
    """The process that works on a run folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words:
            return int(path.parent.name)
    return None


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the run's process in /proc")
def test_takes_up_a_run_that_was_killed(tmp_path: Path) -> None:
    config = a_config(tmp_path, seeds=[14])
    folder = sweep_folder(config) / "stts-k50-seed14"
    sweep = in_a_process(config, tmp_path / "log")
    for name in ("stts-k50-seed14", "none-seed14"):
        run = folder.with_name(name)
        wait_for((run / "checkpoints").is_dir)
        pid = pid_of(run)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    assert sweep.wait(60) == 1
    assert "killed by SIGKILL" in (tmp_path / "log").read_text()
    assert not RunDir(folder).finished
    status, _ = call(config)
    assert status == 0 and read_result(folder) is not None and len(starts(folder)) == 2


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds the run's process in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_a_stopped_sweep_leaves_no_process_and_the_same_command_goes_on(tmp_path: Path, number: int) -> None:
    config = a_config(tmp_path, seeds=[14])
    folder = sweep_folder(config) / "stts-k50-seed14"
    sweep = in_a_process(config, tmp_path / "log")
    for run in (folder, folder.with_name("none-seed14")):  # both, as one without a checkpoint would stop again
        wait_for((run / "checkpoints").is_dir)
    with pytest.raises(ValueError, match="another sweep is at work"):
        call(config)

    sweep.send_signal(number)

    status = sweep.wait(30)
    wait_for(lambda: pid_of(folder) is None, 10)
    if number != signal.SIGKILL:
        assert status == 130 and "The same command goes on" in (tmp_path / "log").read_text()
    assert call(config)[0] == 0


def test_a_run_gets_its_threads_and_gpus_by_its_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "visible_gpus", lambda: ["4", "7"])
    config = a_config(tmp_path)
    config.trainer.num_threads = 3

    assert call(config)[0] == 0

    seen = [starts(sweep_folder(config) / name)[0] for name in ("none-seed0", "stts-k50-seed0")]
    assert {env["CUDA_VISIBLE_DEVICES"] for env in seen} == {"4", "7"}
    assert {env["OMP_NUM_THREADS"] for env in seen} == {env["MKL_NUM_THREADS"] for env in seen} == {"3"}


def test_as_many_runs_at_a_time_as_gpus_or_cores_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = a_config(tmp_path)
    config.sweep.jobs = 0
    config.trainer.num_threads = 2
    monkeypatch.setattr(pool_module, "cores", lambda: 8)
    monkeypatch.setattr(pool_module, "visible_gpus", list)
    assert slots(config) == [{}] * 4
    monkeypatch.setattr(pool_module, "visible_gpus", lambda: ["0", "1", "2", "3"])
    config.trainer.devices = 2
    assert slots(config) == [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]
    config.trainer.accelerator = "cpu"
    assert slots(config) == [{}] * 2


def test_never_reuses_a_run_of_another_configuration(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    assert call(config)[0] == 0
    folder = sweep_folder(config) / "stts-k50-seed0"
    saved = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(saved.replace("lr_scorer: 0.0001", "lr_scorer: 0.5"))

    status, said = call(config)

    assert status == 0 and "optim.lr_scorer: 0.5 != 0.0001" in said
    assert len(starts(folder)) == 1 and len(list(folder.parent.glob("stts-k50-seed0.replaced-*"))) == 1
    assert len((folder.parent / "results.csv").read_text().splitlines()) == 3
    (folder / "result.json").write_text("{")  # nor one that cannot be read
    with pytest.raises(ValueError, match="stts-k50-seed0/result.json.*Delete it"):
        call(config)


def test_the_folder_tells_sweeps_apart_by_what_their_runs_share(tmp_path: Path) -> None:
    config, questions = a_config(tmp_path), tmp_path / "qa.jsonl"
    other = replace(config, optim=OptimConfig(steps=7))
    same = replace(config, seed=5, sweep=SweepConfig(percents=[1.0]), trainer=replace(config.trainer, num_threads=9))
    assert sweep_folder(config) == sweep_folder(same) != sweep_folder(other)
    assert sweep_folder(config).name.startswith("tiny-generated-")
    own = replace(config, data=replace(config.data, train=str(questions)))
    questions.write_text("one\n")
    before = sweep_folder(own)
    questions.write_text("two\n")
    assert sweep_folder(own) != before


def test_pretrains_once_and_every_run_starts_from_it(tmp_path: Path) -> None:
    config = a_config(tmp_path, pretrain=PretrainConfig(enabled=True, steps=9, lr=0.5, num_threads=2))
    first = pretrain_job(config)
    assert first is not None
    assert (first.config.prune.method, first.config.optim.steps, first.config.optim.lr_vision) == ("none", 9, 0.5)

    status, said = call(config)
    again, said_again = call(replace(config, sweep=replace(config.sweep, percents=[30.0])))

    assert (status, again) == (0, 0) and "pretrained in" in said and "pretrained in" not in said_again
    assert first.folder.path.parent == tmp_path / "pretrained" and len(starts(first.folder.path)) == 1
    assert starts(first.folder.path)[0]["OMP_NUM_THREADS"] == "2"
    [run] = (tmp_path / "sweeps").glob("tiny*/stts-k30-seed0")
    assert f"init_from: {first.folder.model}" in (run / "config.yaml").read_text()
    assert pretrain_job(replace(config, init_from="elsewhere")) is None


def test_own_videos_are_pretrained_on_the_generated_set(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    own = replace(config, data=replace(config.data, name="files", train="a.jsonl", eval="b.jsonl"))
    assert pretrain_config(own).data == pretrain_config(config).data


def test_a_failed_pretraining_ends_the_sweep(tmp_path: Path) -> None:
    config = a_config(tmp_path, pretrain=PretrainConfig(enabled=True), seed=13)
    status, said = call(config)
    assert status == 1 and "FAILED pretrain" in said and "no such luck" in said
    assert "2 runs were not started" in said and not list((tmp_path / "sweeps").glob("*/*/starts"))


def test_quick_says_that_its_numbers_mean_nothing(tmp_path: Path) -> None:
    config = a_config(tmp_path)
    config.sweep.quick = True
    said = call(config)[1]
    assert said.count("numbers mean nothing") == 2  # at the start, and over the table
    assert "numbers mean nothing" in (tmp_path / "sweeps" / "latest" / "results.md").read_text()


def test_a_terminal_gets_bars(tmp_path: Path) -> None:
    status, said = call(a_config(tmp_path), force_terminal=True)
    assert status == 0 and "━" in said and "2/2" in said
    bars = Bars(Console(file=io.StringIO(), force_terminal=True, width=100), total=4)
    with bars:
        bars.update([Running("stts-k50-seed0", "training", 5, 10, 3.0, 120.0)], 1, 300.0)
    assert "training 5/10, 2 min left" in bars.console.file.getvalue()


def test_estimates_from_the_pace_of_what_runs_and_from_earlier_runs(tmp_path: Path) -> None:
    config = a_config(tmp_path, optim=OptimConfig(steps=100, batch_size=2))
    stts, random = (run_config(config, Run(method, 50, 0), tmp_path) for method in ("stts", "random"))
    clock = Clock()
    assert clock.seconds_left([], [stts], slots=2) is None
    # half done after 20 s: the one that runs needs 20 s more, and the two that wait 40 s each, one beside it
    running = [(stts, Running("stts", "training", 50, 100, 20.0, 20.0))]
    assert clock.seconds_left(running, [random, random], slots=2) == pytest.approx(60)
    # alone on both cores: what follows is half as fast, two at a time
    assert clock.seconds_left(running, [random, random], slots=2, alone=True) == pytest.approx(20 + 80)
    clock.add(random, 10.0)
    assert clock.seconds_left([], [random, random, random], slots=2) == pytest.approx(20)
