"""Table 4: questions about images, asked of each model that the sweep has left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stts_lightning.config import Config
from stts_lightning.experiment.models import Left, models_left
from stts_lightning.report import mlflow_runs
from stts_lightning.report.client import told_if_away, tracking_client
from stts_lightning.runs import write_json


def ask_about_images(config: Config) -> int:
    """Write images.json, a summary by run, and the predictions beside it; the accuracies go to MLflow as those of two
    benchmarks, `image` and `multi_image`, of the run that was asked.

    Raises:
        ValueError: this version cannot ask about images.
    """
    try:
        from stts_lightning.evaluate_images import evaluate_images
    except ModuleNotFoundError as error:
        raise ValueError(
            "image questions need stts_lightning/evaluate_images.py, which this version does not have. "
            "The sweep before it has finished: its models are kept and not trained again."
        ) from error
    left = models_left(config)
    summaries = {}
    for name, model in left.models.items():
        found = evaluate_images(left.config, model)
        predictions = left.out / f"{name}-image_predictions.jsonl"
        predictions.write_text("".join(json.dumps(p.row()) + "\n" for p in found.predictions), encoding="utf-8")
        summaries[name] = _summary(found)
        print(f"{name}: {_told(summaries[name])}")
        _log(left, name, summaries[name], predictions)
    write_json(left.out / "images.json", summaries)
    print(f"Written: {left.out / 'images.json'}")
    return 0


def _summary(found: Any) -> dict[str, Any]:
    """What `evaluate_images` found, as JSON can hold it."""
    return {
        "method": found.method,
        "prune_percent": found.prune_percent,
        "num_questions": found.num_questions,
        "stock_same_logits": found.stock_same_logits,
        "stock_same_tokens": found.stock_same_tokens,
        "accuracy": {kind: accuracy.mean for kind, accuracy in found.by_kind.items()},
        "accuracy_stderr": {kind: accuracy.stderr for kind, accuracy in found.by_kind.items()},
        "questions": found.questions_by_kind,
    }


def _told(summary: dict[str, Any]) -> str:
    cells = [f"{kind} {value:.3f}" for kind, value in summary["accuracy"].items()]
    total = summary["num_questions"]
    same = f"as the stock model's: logits {summary['stock_same_logits']}/{total}"
    return ", ".join([*cells, f"{same}, answers {summary['stock_same_tokens']}/{total}"])


def _log(left: Left, name: str, summary: dict[str, Any], predictions: Path) -> None:
    if not left.config.tracking.enabled:
        return
    values = {f"eval/benchmark/{kind}": value for kind, value in summary["accuracy"].items()}
    errors = summary["accuracy_stderr"].items()
    values |= {f"eval/benchmark_stderr/{kind}": value for kind, value in errors if value is not None}
    values |= {f"images/{key}": summary[key] for key in ("num_questions", "stock_same_logits", "stock_same_tokens")}
    with told_if_away(left.config.tracking, f"It is all in {left.out}; the same command asks again and logs it."):
        client = tracking_client(left.config.tracking)
        run_id = mlflow_runs.find_run(client, left.out / "entries" / name)
        run_id = run_id or mlflow_runs.find_run(client, left.folder / name)
        if run_id is not None:
            mlflow_runs.log_metrics(client, run_id, values, step=0)
            mlflow_runs.log_files(client, run_id, [predictions])
