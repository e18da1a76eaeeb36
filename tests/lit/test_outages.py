"""MLflow is taken away in the middle: training goes on, and what was logged meanwhile arrives, each value once."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import empty_database
from mlflow.exceptions import MlflowException
from outages import Holder, Patience, Server, fill, on_a_small_disk, patience, wait_until

from stts_lightning import cli
from stts_lightning.config import Config, TrackingConfig, save_config
from stts_lightning.lit import tracking as tracking_module
from stts_lightning.lit.module import STTSModule
from stts_lightning.lit.tracking import RunLogger, open_logger
from stts_lightning.report.client import MlflowAway, tracking_client
from stts_lightning.report.mlflow_runs import find_run, put_off_run, start_run
from stts_lightning.runs import Result, write_result

RESULT = Result("stts", 50.0, 0, 0.8, 0.02, 64.0, 12.5, None, 0.9, 60.0, 10.0, 40)
SMALL = [
    "data.generated.train_videos=8", "data.generated.eval_videos=2", "prune.percent=50", "method=stts",
    "optim.batch_size=2", "optim.warmup_steps=2", "aux.scorer_warmup_steps=2", "trainer.accelerator=cpu",
    "trainer.progress=false", "pretrain.enabled=false", "trainer.checkpoint_every=3", "trainer.log_every=1",
    "optim.steps=10",
]  # fmt: skip


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Patience]:
    """Each flush tries to send; a call to what is away fails soon."""
    monkeypatch.setattr(tracking_module, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(tracking_module, "LONGEST_PAUSE_SECONDS", 0.001)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with patience(200) as short:
        yield short


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return config_in(tmp_path, empty_database(tmp_path / "mlflow.db"))


@pytest.fixture
def holder(config: Config) -> Iterator[Holder]:
    holder = Holder(config.tracking.uri)
    yield holder
    holder.let_go()


def config_in(folder: Path, uri: str) -> Config:
    (folder / "run").mkdir()
    config = Config(tracking=TrackingConfig(uri=uri, artifacts=str(folder / "artifacts"), experiment="e"))
    save_config(config, folder / "run" / "config.yaml")
    return config


def pending(run_dir: Path) -> Path:
    return run_dir / "mlflow_pending.jsonl"


def open_mine(config: Config, run_dir: Path) -> RunLogger:
    return open_logger(config, run_dir, name="mine", flush_seconds=0.0)


def log_steps(logger: RunLogger, *steps: int) -> None:
    for step in steps:
        logger.log_metrics({"train/loss": 1 / (1 + step), "train/lr": step}, step)


def steps_of(config: Config, run_id: str, key: str = "train/loss") -> list[int]:
    return [point.step for point in tracking_client(config.tracking).get_metric_history(run_id, key)]


def assert_arrived(config: Config, run_dir: Path, steps: int) -> str:
    """Each step once, with its value; the run id."""
    run_id = (run_dir / "mlflow_run_id").read_text().strip()
    for key, value in (("train/loss", lambda step: 1 / (1 + step)), ("train/lr", float)):
        history = tracking_client(config.tracking).get_metric_history(run_id, key)
        assert sorted((point.step, point.value) for point in history) == [(i, value(i)) for i in range(steps)]
    return run_id


def test_a_held_database_holds_nothing_up_and_gets_what_was_logged_meanwhile(
    config: Config, tmp_path: Path, holder: Holder, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    logger = open_mine(config, run_dir)
    log_steps(logger, *range(5))
    wait_until(lambda: not pending(run_dir).exists())

    holder.hold()
    log_steps(logger, *range(5, 50))  # returns although nobody lets go
    wait_until(lambda: "What is logged waits in" in caplog.text)
    assert "database is locked" in caplog.text
    assert len(pending(run_dir).read_text().splitlines()) == 2 * 45
    log_steps(logger, *range(50, 60))
    holder.let_go()
    wait_until(lambda: logger.flush() or "MLflow is back" in caplog.text)
    assert not pending(run_dir).exists()
    assert caplog.text.count("What is logged waits in") == 1

    logger.close(RESULT, "FINISHED")
    run_id = assert_arrived(config, run_dir, 60)
    assert tracking_client(config.tracking).get_run(run_id).info.status == "FINISHED"


def test_nothing_waits_for_a_call_that_waits(
    config: Config, tmp_path: Path, holder: Holder, short: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    logger = open_mine(config, tmp_path / "run")
    holder.hold()
    short.milliseconds = 20_000  # MLflow's own
    log_steps(logger, *range(10))
    logger.after_save_checkpoint(None)
    assert len(pending(tmp_path / "run").read_text().splitlines()) == 2 * 10
    assert not caplog.records  # the first call has not even failed yet
    holder.let_go()
    logger.close(None, "FINISHED")
    assert_arrived(config, tmp_path / "run", 10)
    assert not caplog.records


@pytest.mark.slow
def test_a_database_that_is_held_for_longer_than_mlflow_waits(
    config: Config, tmp_path: Path, holder: Holder, short: Patience, caplog: pytest.LogCaptureFixture
) -> None:
    logger = open_mine(config, tmp_path / "run")
    short.milliseconds = 20_000
    holder.hold()
    log_steps(logger, *range(10))
    wait_until(lambda: "What is logged waits in" in caplog.text)
    holder.let_go()
    logger.close(RESULT, "FINISHED")
    assert_arrived(config, tmp_path / "run", 10)


def test_a_run_is_not_taken_for_deleted_while_its_database_is_held(
    config: Config, tmp_path: Path, holder: Holder
) -> None:
    run_id, client = start_run(config, tmp_path / "run", name="mine"), tracking_client(config.tracking)
    holder.hold()
    with pytest.raises(MlflowException, match="database is locked"):
        find_run(client, tmp_path / "run")
    holder.let_go()
    assert find_run(client, tmp_path / "run") == run_id


def test_the_end_waits_longer_than_a_call_without_an_answer_unless_the_user_has_set_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER"
    for name in names:
        monkeypatch.delenv(name, raising=False)
    tracking_client(TrackingConfig(uri="http://127.0.0.1:9"))
    seconds, retries = (int(os.environ[name]) for name in names[:2])
    pauses = sum(2 * 2**i for i in range(1, retries))  # none before the first one; MLflow's factor is 2
    assert seconds > 20  # or a server's wait for its database would be repeated while it still waits
    assert seconds * (retries + 1) + pauses < tracking_module.LAST_CALL_SECONDS
    assert float(os.environ[names[2]]) == 0  # jitter draws from the generator that a seed has set

    monkeypatch.setenv(names[0], "7")
    tracking_client(TrackingConfig(uri="http://127.0.0.1:9"))
    assert os.environ[names[0]] == "7"


@on_a_small_disk(megabytes=8)
def test_a_full_disk_under_the_database_gets_it_when_it_has_room(
    disk: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, run_dir = config_in(tmp_path, empty_database(disk / "mlflow.db")), tmp_path / "run"
    logger = open_logger(config, run_dir, name="mine")
    filler = fill(disk)
    log_steps(logger, *range(2000))
    logger.flush()
    wait_until(lambda: "What is logged waits in" in caplog.text)
    assert "database or disk is full" in caplog.text and pending(run_dir).is_file()
    filler.unlink()
    logger.close(None, "FINISHED")
    assert_arrived(config, run_dir, 2000)


@on_a_small_disk(megabytes=1)
def test_where_neither_mlflow_nor_the_disk_has_room_the_end_says_how_much_is_lost(
    disk: Path, config: Config, holder: Holder, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = disk / "run"
    run_dir.mkdir()
    save_config(config, run_dir / "config.yaml")
    logger = open_logger(config, run_dir, name="mine")
    holder.hold()
    fill(disk)
    log_steps(logger, *range(1000))
    logger.close(None, "FAILED")
    on_disk = len(pending(run_dir).read_text().splitlines())
    assert on_disk < 2000
    assert f"{on_disk} values that MLflow does not have" in caplog.text
    assert f"{2000 - on_disk} VALUES ARE LOST" in caplog.text
    holder.let_go()


def test_a_process_killed_while_mlflow_is_away_leaves_its_values_to_the_next(
    config: Config, tmp_path: Path, holder: Holder
) -> None:
    run_dir = tmp_path / "run"
    logger = open_mine(config, run_dir)
    log_steps(logger, 0, 1)
    wait_until(lambda: not pending(run_dir).exists())
    holder.hold()
    child = os.fork()
    if child == 0:
        log_steps(open_mine(config, run_dir), 2, 3, 4)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert len(pending(run_dir).read_text().splitlines()) == 2 * 3

    second = open_mine(config, run_dir)  # taken up while MLflow is still away
    log_steps(second, 5)
    holder.let_go()
    second.close(None, "KILLED")
    assert_arrived(config, run_dir, 6)
    assert not pending(run_dir).exists()


def test_a_new_run_does_not_begin_without_mlflow(config: Config, tmp_path: Path, holder: Holder) -> None:
    tracking_client(config.tracking)
    holder.hold()
    with pytest.raises(MlflowAway, match="database is locked.*tracking.enabled=false"):
        open_mine(config, tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"config.yaml"}


def test_a_run_that_was_put_off_begins_and_is_opened_as_it_was_announced(
    config: Config, tmp_path: Path, holder: Holder
) -> None:
    run_dir = tmp_path / "run"
    tracking_client(config.tracking)
    holder.hold()
    put_off_run(run_dir, name="announced", parent_run_id="p", tags={"own": "tag"})
    logger = open_mine(config, run_dir)
    log_steps(logger, 0, 1)
    holder.let_go()
    logger.close(RESULT, "FINISHED")
    run = tracking_client(config.tracking).get_run(assert_arrived(config, run_dir, 2))
    assert run.info.run_name == "announced" and run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == "p" and run.data.tags["own"] == "tag"
    assert {path.name for path in run_dir.iterdir()} == {"config.yaml", "mlflow_run_id"}


def left_behind(caplog: pytest.LogCaptureFixture, run_dir: Path) -> int:
    """What the run says at its end; the file may begin with values that MLflow has."""
    said = re.search(rf"(\d+) values that MLflow does not have are in {re.escape(str(pending(run_dir)))}", caplog.text)
    assert said is not None
    return int(said.group(1))


def test_a_run_that_ends_without_mlflow_says_what_is_missing_and_the_same_command_sends_it(
    config: Config,
    tmp_path: Path,
    holder: Holder,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    logger = open_mine(config, run_dir)
    log_steps(logger, 0, 1, 2)
    holder.hold()
    log_steps(logger, 3, 4, 5, 6)
    write_result(run_dir, RESULT)
    logger.close(RESULT, "FINISHED")
    assert 2 * 4 <= left_behind(caplog, run_dir) <= len(pending(run_dir).read_text().splitlines())

    command = ["train", "--run-dir", str(run_dir)]
    assert cli.main(command) == 2  # still away
    assert "database is locked" in capsys.readouterr().err
    holder.let_go()
    assert cli.main(command) == 0
    assert "MLflow, which was away at the run's end, has it now" in capsys.readouterr().out

    client, run_id = tracking_client(config.tracking), assert_arrived(config, run_dir, 7)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.metrics["eval/accuracy"] == 0.8
    assert "result.json" in {artifact.path for artifact in client.list_artifacts(run_id)}
    assert not pending(run_dir).exists()


def test_a_run_that_is_closed_twice_has_each_result_once(config: Config, tmp_path: Path, holder: Holder) -> None:
    """As after a server that went away between the first and the last of the calls that close a run."""
    run_dir = tmp_path / "run"
    (run_dir / "result.json").write_text("{}")
    for _ in range(2):
        open_mine(config, run_dir).close(RESULT, "FINISHED")
    run_id = (run_dir / "mlflow_run_id").read_text().strip()
    assert steps_of(config, run_id, "eval/accuracy") == [0]


# Whole trainings, with what they log compared to that of one whose MLflow was there all the time.


def train(run_dir: Path, root: Path, uri: str, *more: str) -> int:
    own = [
        f"tracking.uri={uri}",
        f"tracking.artifacts={root / 'artifacts'}",
        f"data.generated.root={root / 'set'}",
        f"data.frame_cache_dir={root / 'frames'}",
    ]
    return cli.main(["train", "--run-dir", str(run_dir), *SMALL, *own, *more])


def logged(uri: str, run_dir: Path) -> tuple[str, dict[str, list[tuple[int, float | None]]]]:
    """Status, and by key each step with its value; None for what a clock or a counter of memory has measured."""
    client = tracking_client(TrackingConfig(uri=uri))
    run = client.get_run((run_dir / "mlflow_run_id").read_text().strip())
    measured = ("second", "peak_memory")
    return run.info.status, {
        key: sorted(
            (point.step, None if any(word in key for word in measured) else point.value)
            for point in client.get_metric_history(run.info.run_id, key)
        )
        for key in run.data.metrics
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trainings")


@pytest.fixture(scope="module")
def undisturbed(root: Path) -> tuple[str, dict[str, list[tuple[int, float | None]]]]:
    uri = empty_database(root / "undisturbed.db")
    assert train(root / "undisturbed", root, uri) == 0
    found = logged(uri, root / "undisturbed")
    assert found[0] == "FINISHED" and [step for step, _ in found[1]["train/loss"]] == list(range(2, 12))
    return found


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], Any]]:
    """What to do before a step of the training."""
    actions: dict[int, Callable[[], Any]] = {}
    real, seen = STTSModule.training_step, []

    def watched(self: STTSModule, *batch: Any) -> Any:
        seen.append(None)
        actions.get(len(seen), lambda: None)()
        return real(self, *batch)

    monkeypatch.setattr(STTSModule, "training_step", watched)
    return actions


def test_a_training_whose_server_is_killed_and_comes_back_has_logged_the_same(
    root: Path, undisturbed: Any, before_step: dict[int, Callable[[], Any]], caplog: pytest.LogCaptureFixture
) -> None:
    run_dir, server = root / "served", Server(empty_database(root / "served.db"), root)
    before_step[5] = server.kill

    def come_back() -> None:  # once the checkpoint at step 6 has tried in vain
        wait_until(lambda: "What is logged waits in" in caplog.text)
        assert pending(run_dir).is_file()
        server.start()

    before_step[9] = come_back
    try:
        server.start()
        assert train(run_dir, root, server.uri) == 0
        assert logged(server.uri, run_dir) == undisturbed
        for said in (f"tracking.uri='{server.uri}': MLflow does not take it", "MLflow is back"):
            assert said in caplog.text
        artifacts = tracking_client(TrackingConfig(uri=server.uri)).list_artifacts(
            (run_dir / "mlflow_run_id").read_text().strip()
        )
        assert {"result.json", "predictions.jsonl"} <= {artifact.path for artifact in artifacts}
    finally:
        server.close()
    assert not pending(run_dir).exists()


@pytest.mark.slow
def test_a_training_whose_mlflow_stays_away_finishes_and_the_same_command_sends_it(
    root: Path,
    undisturbed: Any,
    before_step: dict[int, Callable[[], Any]],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir, uri = root / "held", empty_database(root / "held.db")
    holder = Holder(uri)
    before_step[5] = holder.hold
    try:
        assert train(run_dir, root, uri) == 0
        accuracy = json.loads((run_dir / "result.json").read_text())["accuracy"]
        assert 0 < left_behind(caplog, run_dir) <= len(pending(run_dir).read_text().splitlines())

        before_step.clear()
        assert train(run_dir, root, uri) == 2  # still away: an error, and the run is not trained again
        assert "database is locked" in capsys.readouterr().err
        holder.let_go()
        assert train(run_dir, root, uri) == 0
    finally:
        holder.let_go()
    assert "MLflow, which was away at the run's end, has it now" in capsys.readouterr().out
    status, metrics = logged(uri, run_dir)
    assert (status, metrics) == undisturbed and metrics["eval/accuracy"] == [(0, accuracy)]
    assert not pending(run_dir).exists()
