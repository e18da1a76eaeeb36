"""The benchmarks of a configuration, asked of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from stts_lightning.benchmark.answer import molmo2_answerer
from stts_lightning.benchmark.averages import image_averages, video_averages
from stts_lightning.benchmark.declare import Benchmark, load_benchmark
from stts_lightning.benchmark.items import Item
from stts_lightning.benchmark.load import Loaded, load_items
from stts_lightning.benchmark.run import describe, run_benchmark, save_result
from stts_lightning.benchmark.score import BenchmarkResult
from stts_lightning.config import Config

Results = dict[str, BenchmarkResult]


class Answerer(Protocol):
    """What `run_benchmark` asks, and what ends its decoding process."""

    def __call__(self, item: Item) -> str: ...

    def close(self) -> None: ...


AnswererOf = Callable[[Benchmark], Answerer]


def evaluate_benchmarks(
    config: Config,
    answerer_of: AnswererOf | None,
    folder: Path,
) -> Results:
    """Ask every benchmark of ``config.benchmark.names`` and print what it comes to.

    Predictions and numbers of each go to ``folder/<name>/``, or ``folder/<name>.<control>/``. All sources are looked
    up before the first question is asked.

    Args:
        answerer_of: who answers a benchmark, such as `molmo2_answers`; None will do for the control random_choice.
    """
    settings = config.benchmark
    results: Results = {}
    for benchmark, (items, dropped) in look_up(config):
        answerer = None
        if settings.control != "random_choice":
            assert answerer_of is not None
            answerer = answerer_of(benchmark)
        result = run_benchmark(
            benchmark, items, answerer or _nobody, control=settings.control, seed=config.seed, dropped=dropped
        )
        if answerer is not None:
            answerer.close()
        save_result(result, folder / _folder_name(benchmark.name, settings.control))
        print(describe(result))
        results[benchmark.name] = result
    for line in _averages({name: result.accuracy for name, result in results.items()}):
        print(line)
    return results


def molmo2_answers(model: Any, tokenizer: PreTrainedTokenizerBase, config: Config) -> AnswererOf:
    """A pruned or stock Molmo2 answers."""
    return lambda benchmark: molmo2_answerer(_ready(model, config), tokenizer, config, benchmark)


def look_up(config: Config) -> list[tuple[Benchmark, Loaded]]:
    """Every benchmark that is asked for, with its questions. A training calls this before it starts, so that what is
    missing is not found out at its end.

    Raises:
        ValueError: what `load_benchmark` and `load_items` raise.
    """
    settings = config.benchmark
    asked = [load_benchmark(name) for name in settings.names]
    seeing = settings.control == "none"
    return [(b, load_items(b, settings.root, limit=settings.limit, need_media=seeing)) for b in asked]


def cells(results: Mapping[str, BenchmarkResult]) -> dict[str, float]:
    """Accuracy (0-1) by benchmark; a control's under a name of its own."""
    return {_folder_name(name, result.control): result.accuracy for name, result in results.items()}


def stderrs(results: Mapping[str, BenchmarkResult]) -> dict[str, float]:
    """Standard error by benchmark, named as in `cells`; one with a single video has none."""
    found = {_folder_name(name, result.control): result.stderr for name, result in results.items()}
    return {name: stderr for name, stderr in found.items() if stderr is not None}


def benchmark_model(config: Config, model: Path | None, percent: float | None, out: Path | None) -> Results:
    """Ask a model folder that a run left.

    Raises:
        ValueError: no model for anything but random_choice, or what `load_pruned` and `load_items` raise.
    """
    torch.set_num_threads(config.trainer.num_threads)
    control = config.benchmark.control
    if model is None:
        if control != "random_choice":
            raise ValueError(f"--model names the model to ask; benchmark.control={control} needs one.")
        return evaluate_benchmarks(config, None, out or Path(config.output_dir) / "benchmarks")
    from stts_lightning.molmo2.checkpoint import load_pruned

    pruned = load_pruned(model, dtype=getattr(torch, config.backbone.dtype), attention=config.backbone.attention)
    if percent is not None:
        pruned.handle.percent = percent
    return evaluate_benchmarks(
        config, molmo2_answers(pruned.model, pruned.tokenizer, config), out or model.parent / "benchmarks"
    )


def _ready(model: Any, config: Config) -> Any:
    """The model in evaluation mode where it can be fast: after a fit Lightning leaves it on the CPU."""
    on_gpu = torch.cuda.is_available() and config.trainer.accelerator != "cpu"
    return model.to("cuda" if on_gpu else "cpu").eval()


def _nobody(item: Item) -> str:
    raise AssertionError("the control random_choice asks nobody")


def _folder_name(name: str, control: str) -> str:
    return name if control == "none" else f"{name}.{control}"


def _averages(values: Mapping[str, float]) -> list[str]:
    lines = []
    for kind, parts, average in (
        ("video", ("short", "long"), video_averages(values)),
        ("image", ("one image", "several"), image_averages(values)),
    ):
        if average.first is None and average.second is None:
            continue
        shown = [f"{name} {value:.3f}" for name, value in zip(parts, average[:2], strict=True) if value is not None]
        shown += [f"average {average.average:.3f}"] if average.average is not None else []
        without = f" (without {', '.join(average.missing)})" if average.missing else ""
        lines.append(f"{kind} benchmarks: {', '.join(shown)}{without}")
    return lines
