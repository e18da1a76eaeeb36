"""The folder of one run, as a value: where its files are, what they hold, and how they are written.

Every file that another process reads while the run goes on is written aside and moved into place,
so a reader sees the old one or the new one and never half of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from stts_lightning.config import REPOSITORY, Config, flatten

PHASES = ("starting", "pretraining", "training", "evaluating", "done")

# What changes neither the weights nor the answers of a run. `pretrain` is not lost: `init_from` names
# the checkpoint that it made, in a folder that carries the hash of the pretraining's own configuration.
_NOT_HASHED = (
    "output_dir",
    "experiment.",
    "tracking.",
    "sweep.",
    "pretrain.",
    "trainer.num_threads",
    "trainer.checkpoint_every",
    "trainer.log_every",
    "trainer.throughput_warmup",
    "trainer.progress",
    "data.num_workers",
    "data.frame_cache_mib",
    "data.generated.root",
    "benchmark.root",
    "benchmark.batch_size",
)


@dataclass(frozen=True)
class RunDir:
    """Paths of one run's files; nothing is created or read."""

    path: Path

    config = property(lambda self: self.path / "config.yaml")
    result = property(lambda self: self.path / "result.json")
    progress = property(lambda self: self.path / "progress.json")
    skipped = property(lambda self: self.path / "skipped.json")
    predictions = property(lambda self: self.path / "predictions.jsonl")
    decisions = property(lambda self: self.path / "decisions.npz")
    contact_sheet = property(lambda self: self.path / "contact_sheet.png")
    log = property(lambda self: self.path / "log.txt")
    checkpoints = property(lambda self: self.path / "checkpoints")
    model = property(lambda self: self.path / "model")
    benchmarks = property(lambda self: self.path / "benchmarks")
    mlflow_run_id = property(lambda self: self.path / "mlflow_run_id")
    mlflow_opening = property(lambda self: self.path / "mlflow_opening.json")  # of a run that MLflow does not have yet
    mlflow_pending = property(lambda self: self.path / "mlflow_pending.jsonl")  # what it was not told yet

    @property
    def finished(self) -> bool:
        return bool(self.result.is_file())


@dataclass
class Result:
    """What a finished run says of itself; null where a run has no such number."""

    method: str
    prune_percent: float  # 0-100
    seed: int
    accuracy: float  # 0-1
    accuracy_stderr: float | None  # clustered by video
    kept_tokens: float  # mean vision tokens of a clip that reach the language model
    samples_per_second: float | None  # clips, in training
    tokens_per_second: float | None
    peak_memory_gib: float | None
    train_seconds: float
    eval_seconds: float
    num_questions: int
    by_category: dict[str, float] = field(default_factory=dict)
    benchmarks: dict[str, float] = field(default_factory=dict)  # accuracy, 0-1, by benchmark
    benchmarks_stderr: dict[str, float] = field(default_factory=dict)  # clustered by video
    kept_shares: dict[str, float] = field(default_factory=dict)  # of what generated clips show, 0-1, frame 0 aside
    skipped: dict[str, int] = field(default_factory=dict)  # questions that training did without, by kind of problem
    checkpoint: str | None = None
    git_commit: str | None = None
    layer: int = 0  # prune.layer
    max_frames: int = 64  # video.max_frames, at evaluation
    variant: str = "trained"  # or what was evaluated without any training, as in Config
    curve: list[list[float]] = field(default_factory=list)  # [step, accuracy], with trainer.eval_every


@dataclass
class Progress:
    phase: str
    step: int
    steps: int
    seconds_left: float | None


def write_result(run_dir: str | Path, result: Result | Mapping[str, Any]) -> None:
    """Write result.json: the last thing that a run does, for its presence means that the run is finished.

    Raises:
        ValueError: a key is missing.
    """
    body = asdict(result) if isinstance(result, Result) else dict(result)
    _result(body, RunDir(Path(run_dir)).result)
    write_json(RunDir(Path(run_dir)).result, body)


def read_result(run_dir: str | Path) -> Result | None:
    """The result of a finished run, or None.

    Raises:
        ValueError: result.json is damaged; the message names it and what to do.
    """
    path = RunDir(Path(run_dir)).result
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path}: not readable ({error}). Delete it to run this one again.") from None
    return _result(body, path)


def write_progress(
    run_dir: str | Path, phase: str, step: int = 0, steps: int = 0, seconds_left: float | None = None
) -> None:
    """Say where a run stands; ``steps`` is 0 where the phase has no count."""
    if phase not in PHASES:
        raise ValueError(f"progress phase {phase!r} is not one of {', '.join(PHASES)}.")
    write_json(RunDir(Path(run_dir)).progress, asdict(Progress(phase, step, steps, seconds_left)))


def read_progress(run_dir: str | Path) -> Progress | None:
    """Where a run stands, or None if it has not said so yet."""
    try:
        body = json.loads(RunDir(Path(run_dir)).progress.read_text(encoding="utf-8"))
        return Progress(body["phase"], int(body["step"]), int(body["steps"]), body["seconds_left"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a progress bar is not worth an error


def write_json(path: Path, body: Any) -> None:
    """Write JSON aside and move it into place; NaN and infinity become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    aside.write_text(json.dumps(_finite(body), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(aside, path)


def config_hash(config: Config) -> str:
    """8 hex digits over every value that changes what the run computes."""
    return digest(own_values(config))


def own_values(config: Config) -> dict[str, Any]:
    """The hashed values that are not the defaults: a setting that is new moves no folder while nobody sets it.

    A default that changes moves none either; `differences` with the saved configuration tells.
    """
    default = hashed(Config())
    return {key: value for key, value in hashed(config).items() if key not in default or default[key] != value}


def digest(values: Mapping[str, Any]) -> str:
    """8 hex digits over a flat mapping, whatever its order."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def differences(one: Config, other: Config) -> list[str]:
    """``key: one != other`` for the hashed values that differ."""
    left, right = hashed(one), hashed(other)
    keys = sorted(set(left) | set(right))
    return [f"{key}: {left.get(key)} != {right.get(key)}" for key in keys if left.get(key) != right.get(key)]


def git_commit() -> str:
    """The commit of this checkout, with ``-dirty`` if tracked files have changed; ``unknown`` outside git."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip() or "unknown"


def hashed(config: Config) -> dict[str, Any]:
    """The flattened values that change what a run computes."""
    values = {key: value for key, value in flatten(config).items() if not key.startswith(_NOT_HASHED)}
    if not config.benchmark.names:  # asks none, whatever else is set: the same run as before there were any
        values = {key: value for key, value in values.items() if not key.startswith("benchmark.")}
    if values.get("init_from"):  # the same checkpoint if the outputs were moved as a whole
        values["init_from"] = os.path.relpath(values["init_from"], config.output_dir)
    return values


def _result(body: Mapping[str, Any], path: Path) -> Result:
    known = {f.name for f in fields(Result)}
    if "trained" in body and "variant" not in body:  # as it was written before there were more than two ways
        scaled = "test_time_scaling" if body.get("test_time_scaling") else "trained"
        body = {**body, "variant": scaled if body["trained"] else "inference_only"}
    try:
        return Result(**{key: value for key, value in body.items() if key in known})
    except TypeError as error:
        raise ValueError(f"{path}: {error}. Delete the file to run this one again.") from None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
