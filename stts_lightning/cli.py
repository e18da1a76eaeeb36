"""The command line: what the Makefile calls."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from stts_lightning.config import Config, load_config, read_config, save_config
from stts_lightning.runs import RunDir


def main(argv: list[str] | None = None) -> int:
    """Run one command; user errors end in one message without a traceback, and exit status 2."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)  # overrides may stand before and after the options
    if any(item.startswith("-") for item in rest) or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides += rest
    # Progress lines and results are what a user should see, not the libraries' notes to themselves.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        return int(arguments.run(arguments) or 0)
    except ValueError as error:
        if os.environ.get("STTS_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stts-lightning", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    def configurable(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--experiment", help="a name under experiments/ or a YAML file")
        sub.add_argument("overrides", nargs="*", help="group=name or section.key=value")

    train = command("train", _train, "Train and evaluate one configuration.")
    train.add_argument("--run-dir", type=Path, help="where it leaves everything; resumes what it finds there")
    train.add_argument("--parent", help="id of the MLflow run to nest under")
    configurable(train)
    evaluate = command("eval", _eval, "Evaluate a model folder that a run left.")
    evaluate.add_argument("model", type=Path, help="the model/ folder of a run")
    evaluate.add_argument("--percent", type=float, help="prune another share than it was trained with")
    configurable(evaluate)
    benchmark = command("benchmark", _benchmark, "Ask a model the questions of public benchmarks.")
    benchmark.add_argument("names", help="files of conf/benchmark/, comma-separated")
    benchmark.add_argument("--model", type=Path, help="the model/ folder of a run; random_choice needs none")
    benchmark.add_argument("--host", help="another model, unpruned: a file of conf/host/")
    benchmark.add_argument("--percent", type=float, help="prune another share than it was trained with")
    benchmark.add_argument("--root", help="the folder that holds one folder a benchmark")
    benchmark.add_argument("--control", help="none, no_vision or random_choice")
    benchmark.add_argument("--limit", type=int, help="the first so many questions alone")
    benchmark.add_argument("--out", type=Path, help="folder of the predictions; default: beside the model")
    configurable(benchmark)
    convert = command("convert", _convert, "Write the newest checkpoint of an unfinished run as a model folder.")
    convert.add_argument("run", type=Path, help="the run's folder")
    convert.add_argument("--out", type=Path, help="the model folder; default: model-step=N in the run's")
    sweep = command("sweep", _sweep, "Train and compare methods at several pruning percentages.")
    configurable(sweep)
    experiment = command("experiment", _experiment, "Run one of the paper's experiments, by its name in experiments/.")
    experiment.add_argument("name", help="a file of experiments/, without .yaml")
    experiment.add_argument("overrides", nargs="*", help="group=name or section.key=value")
    compare = command("compare", _compare, "The paired difference of two runs that answered the same questions.")
    compare.add_argument("one", type=Path, help="a run's folder")
    compare.add_argument("other", type=Path, help="the folder of the run that is subtracted")
    measured = command("tables", _tables, "The tables of measured runs: accuracies, what is kept, paired differences.")
    measured.add_argument("files", type=Path, nargs="+", help="measured.csv, as an experiment of domains writes it")
    bench = command("bench", _bench, "Measure speed and memory on this machine; writes bench.json, .md and .png.")
    bench.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder of the results")
    bench.add_argument("--rounds", type=int, default=5, help="repeats of everything, side by side")
    tables = "train,methods,prefill,overhead,layouts,packing,inputs,growth"
    bench.add_argument("--only", help=f"tables, comma-separated: {tables}")
    bench.add_argument("--size", choices=("4b", "small"), help="4b: Molmo2-4B's shapes; default on a GPU alone")
    bench.add_argument("--checkpointing", choices=("none", "vision", "language", "all"), help="default on a GPU: all")
    bench.add_argument("--compile", action=argparse.BooleanOptionalAction, help="the blocks; default on a GPU")
    plan = command("plan", _plan, "Memory and hours of a run on GPUs that are not here; writes plan.json.")
    plan.add_argument("--out", type=Path, default=Path("outputs/plan"), help="folder of plan.json")
    plan.add_argument("--trainers", help="compare files of conf/trainer/, comma-separated, or all: a line each")
    plan.add_argument("--card-gib", type=float, help="memory of a GPU, GiB; default 80, an H100's")
    plan.add_argument("--peak-tflops", type=float, help="of a GPU, dense bfloat16; default 989.4, an H100's")
    plan.add_argument("--utilisation", type=float, help="assumed share of that peak, 0 to 1; default 0.35")
    plan.add_argument("--step-seconds", type=float, help="a measured step, instead of an assumed utilisation")
    configurable(plan)
    report = command("report", _report, "Write what MLflow holds as one HTML page, the paper's tables beside ours.")
    report.add_argument("--out", type=Path, default=Path("outputs/report.html"), help="the file to write")
    configurable(report)
    calibrate = command("calibrate", _calibrate, "Measure this machine on a few clips; prints JSON.")
    calibrate.add_argument("--config", type=Path, required=True, help="a configuration that a run saved")
    generate = command("generate", _generate, "Make the embedded video-question set.")
    configurable(generate)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    run, config = _run_of(arguments)
    if run.finished:
        return _has_finished(run, config)
    with _quick_imports():
        from stts_lightning.processes import is_first
        from stts_lightning.train import describe, train

    result = train(_pretrained(config), run.path, arguments.parent)
    if is_first():
        print(describe(result))
    return 0


def _run_of(arguments: argparse.Namespace) -> tuple[RunDir, Config]:
    """The folder of a run, and its configuration: that of the folder, or what is given, which is saved there.

    Raises:
        ValueError: the folder holds a run of another configuration than the given one.
    """
    from stts_lightning.runs import differences
    from stts_lightning.sweep.run import Run

    given = bool(arguments.overrides or arguments.experiment or arguments.run_dir is None)
    config = load_config(arguments.overrides, arguments.experiment)
    if arguments.run_dir is None:
        name = Run(config.prune.method, config.prune.percent, config.seed, variant=config.variant).name
        arguments.run_dir = Path(config.output_dir) / "runs" / f"{config.backbone.name}-{config.data.name}-{name}"
    run = RunDir(arguments.run_dir)
    if run.config.is_file():
        saved = read_config(run.config)
        if given and (changed := differences(saved, config)):
            raise ValueError(
                f"{run.path} holds another run, which differs in {', '.join(changed)}. Name a new --run-dir, or "
                "remove that folder."
            )
        config = saved
    run.path.mkdir(parents=True, exist_ok=True)
    save_config(config, run.config)
    return run, config


def _has_finished(run: RunDir, config: Config) -> int:
    """Not trained again; MLflow is told what it could not be told. Each process of a run decides alike."""
    from stts_lightning.processes import is_first
    from stts_lightning.report.mlflow_runs import tell_the_rest
    from stts_lightning.runs import read_result
    from stts_lightning.train import describe

    result = read_result(run.path)
    if result is not None and is_first():
        if config.tracking.enabled and tell_the_rest(config, run.path) is not None:
            print("MLflow, which was away at the run's end, has it now.")
        print(f"{run.path} has finished. It is not trained again; remove it for that.")
        print(describe(result))
    return 0


def _pretrained(config: Config) -> Config:
    """The run that starts from the pretrained model, which is made here unless it is there.

    Raises:
        ValueError: it is not there, and several processes are to start from it.
    """
    from stts_lightning.report.client import told_if_away
    from stts_lightning.report.mlflow_runs import tell_the_rest
    from stts_lightning.sweep.plan import pretrain_job
    from stts_lightning.train import train

    pretraining = pretrain_job(config)
    if pretraining is None:
        return config
    if not pretraining.finished and config.trainer.devices * config.trainer.num_nodes > 1:
        raise ValueError(
            f"{pretraining.folder.path} is not there yet, and one process makes it: run this once with "
            "trainer.devices=1 trainer.num_nodes=1 trainer.strategy=auto, or name a model as init_from."
        )
    if not pretraining.finished:
        print(f"First, once: pretraining without pruning, in {pretraining.folder.path}")
        pretraining.folder.path.mkdir(parents=True, exist_ok=True)
        save_config(pretraining.config, pretraining.folder.config)
        train(pretraining.config, pretraining.folder.path)
    elif config.tracking.enabled:
        with told_if_away(config.tracking, f"The pretraining is in {pretraining.folder.path}."):
            tell_the_rest(pretraining.config, pretraining.folder.path)
    return replace(config, init_from=str(pretraining.folder.model))


@contextmanager
def _quick_imports() -> Iterator[None]:
    """What is imported is no garbage, and to look for some in it takes a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _eval(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides, arguments.experiment)
    with _quick_imports():
        from stts_lightning.evaluate import evaluate

    evaluate(config, arguments.model, arguments.percent)
    return 0


def _benchmark(arguments: argparse.Namespace) -> int:
    given = {"root": arguments.root, "control": arguments.control, "limit": arguments.limit}
    overrides = [f"benchmark.{key}={value}" for key, value in given.items() if value is not None]
    overrides.append(f"benchmark.names=[{arguments.names}]")
    config = load_config([*arguments.overrides, *overrides], arguments.experiment)
    if arguments.host is not None:
        if arguments.model is not None or arguments.percent is not None:
            raise ValueError("--host asks another model, unpruned; leave out --model and --percent.")
        from stts_lightning.benchmark.host import benchmark_host

        benchmark_host(config, arguments.host, arguments.out)
        return 0
    from stts_lightning.benchmark.evaluate import benchmark_model

    benchmark_model(config, arguments.model, arguments.percent, arguments.out)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from stts_lightning.convert import convert

    print(convert(arguments.run, arguments.out))
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides, arguments.experiment)
    from stts_lightning.sweep import run_sweep

    return run_sweep(config)


def _experiment(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides, arguments.name)
    from stts_lightning.experiment import run_experiment

    return run_experiment(config)


def _compare(arguments: argparse.Namespace) -> int:
    from stts_lightning.report.paired import compare

    print(compare(arguments.one, arguments.other))
    return 0


def _tables(arguments: argparse.Namespace) -> int:
    from stts_lightning.report.domains import tables
    from stts_lightning.report.measured import read_measured

    print(tables(read_measured(arguments.files)))
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from stts_lightning.bench.main import TABLES, bench
    from stts_lightning.bench.write import page

    results = bench(
        arguments.out,
        size=arguments.size,
        rounds=arguments.rounds,
        only=arguments.only.split(",") if arguments.only else TABLES,
        compiled=arguments.compile,
        checkpointing=arguments.checkpointing,
    )
    print(page(results))
    print(f"in {arguments.out}/: bench.json, bench.md, bench.png")
    return 0


def _plan(arguments: argparse.Namespace) -> int:
    from stts_lightning.plan.main import Machine, plan, summary, trainer_names
    from stts_lightning.plan.write import compared, page, write_plan

    given = {name: getattr(arguments, name) for name in ("card_gib", "peak_tflops", "utilisation", "step_seconds")}
    machine = Machine(**{name: value for name, value in given.items() if value is not None})
    if arguments.trainers:
        plans = {}
        for name in trainer_names(arguments.trainers):
            config = load_config([*arguments.overrides, f"trainer={name}"], arguments.experiment)
            plans[name] = summary(plan(config, machine, compared=False))
        print(compared(plans))
        return 0
    config = load_config(arguments.overrides, arguments.experiment)
    made = plan(config, machine)
    print(page(made, config))
    print(f"in {write_plan(made, arguments.out)}: the same in bytes")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides, arguments.experiment)
    from stts_lightning.report.page.main import write_page
    from stts_lightning.report.paired import seeds_compared

    print(write_page(config, arguments.out, seeds_compared))
    return 0


def _calibrate(arguments: argparse.Namespace) -> int:
    from stts_lightning.calibrate import calibrate

    print(json.dumps(calibrate(read_config(arguments.config))))
    return 0


def _generate(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides, arguments.experiment)
    from stts_lightning.data.generate import generated_set

    print(*generated_set(config.data.generated), sep="\n")
    return 0
