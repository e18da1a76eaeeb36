"""The command line: train, eval, sweep, generate."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path

from stts_lightning.config import load_config, read_config, save_config


def main(argv: list[str] | None = None) -> int:
    """Run one command; user errors end in one message without a traceback, and exit status 2."""
    arguments = _parser().parse_args(argv)
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
    sweep = command("sweep", _sweep, "Train and compare methods at several pruning percentages.")
    configurable(sweep)
    generate = command("generate", _generate, "Make the embedded video-question set.")
    configurable(generate)
    return parser


def _train(arguments: argparse.Namespace) -> int:
    run_dir = arguments.run_dir
    if run_dir is not None and (run_dir / "config.yaml").is_file():
        if arguments.overrides or arguments.experiment:
            raise ValueError(
                f"{run_dir}/config.yaml is there already; resume it without overrides, or name a new --run-dir."
            )
        config = read_config(run_dir / "config.yaml")
    else:
        config = load_config(arguments.overrides, arguments.experiment)
        run_dir = run_dir or Path(config.output_dir) / "runs" / f"{config.prune.method}-k{config.prune.percent:g}"
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir / "config.yaml")
    from stts_lightning.train import describe, train

    print(describe(train(config, run_dir, arguments.parent)))
    return 0


def _eval(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides, arguments.experiment)
    from stts_lightning.evaluate import evaluate

    evaluate(config, arguments.model, arguments.percent)
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides, arguments.experiment)
    from stts_lightning.sweep import run_sweep

    return run_sweep(config)


def _generate(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.overrides, arguments.experiment)
    from stts_lightning.data.generate import generated_set

    print(*generated_set(config.data.generated), sep="\n")
    return 0
