"""`make plan`: one configuration, in memory and in hours, without weights and without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stts_lightning.bench.measure import PEAK_TFLOPS
from stts_lightning.config import CONF_DIR, Config, with_method
from stts_lightning.plan.activations import Activations, measure, parameters_of, shadow_module
from stts_lightning.plan.state import Compute, Parameters, State, computes_in, strategy_of, training_state
from stts_lightning.plan.work import Load, Work, load_of, work_of

GIB = 2**30


@dataclass(frozen=True)
class Machine:
    """What is assumed of the GPUs.

    ``utilisation``: the share of ``peak_tflops`` that a step reaches, of all operations that it runs, recomputation and
    padding included. ``reserve_gib``: of CUDA's context, cuBLAS and NCCL, which no tensor shows.

    Raises:
        ValueError: a number that cannot be.
    """

    card_gib: float = 80.0
    peak_tflops: float = PEAK_TFLOPS["H100"]
    utilisation: float = 0.35
    reserve_gib: float = 2.0
    step_seconds: float | None = None  # measured: then nothing is assumed of the speed

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"--utilisation {self.utilisation} is a share of the peak: more than 0, at most 1.")
        for name in ("card_gib", "peak_tflops", "step_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"--{name.replace('_', '-')} {value} must be greater than 0.")


@dataclass(frozen=True)
class Column:
    """The plan at one percentage. ``tokens`` and ``places`` reach the language model in a step, without and with
    padding; ``patches`` the vision tower; ``vision_tokens`` leave it."""

    percent: float
    activations: Activations
    load: Load
    work: Work
    peak: float  # bytes on each GPU
    fits: bool
    samples: int  # clips a step
    tokens: int
    places: int
    patches: int
    vision_tokens: int
    step_seconds: float
    hours: float


@dataclass(frozen=True)
class Plan:
    """What a run of a configuration takes; the last of ``columns`` is at its own percentage."""

    backbone: str
    strategy: str
    precision: str
    compute: Compute
    gpus: int
    steps: int
    parameters: Parameters
    state: State
    columns: list[Column]
    machine: Machine

    @property
    def fits(self) -> bool:
        return self.columns[-1].fits

    def items(self) -> dict[str, float]:
        """Bytes on each GPU at the run's own percentage, by what they are for."""
        state, activations = self.state, self.columns[-1].activations
        return {
            "weights": state.weights,
            "gradients": state.gradients,
            "optimizer": state.master + state.moments,
            "communication": state.buffers,
            "activations": activations.total,
        }


def plan(config: Config, machine: Machine | None = None, *, compared: bool = True) -> Plan:
    """Work out memory and time of a run, on `meta` tensors, in seconds.

    Args:
        compared: with the same run without pruning beside it.

    Raises:
        ValueError: a checkpoint of unknown sizes, or a clip that fits no sequence.
    """
    machine = machine or Machine()
    compute = computes_in(config.trainer)
    gpus = config.trainer.devices * config.trainer.num_nodes
    module = shadow_module(config)
    parameters = parameters_of(module)
    state = training_state(parameters, config.trainer, config.optim.accumulate)
    columns = []
    for each in [with_method(config, "none"), config] if compared and config.prune.percent > 0 else [config]:
        shadow = module if each is config else shadow_module(each)
        load = load_of(each, each.prune.percent)
        work = work_of(each, shadow.model.config, load)
        columns.append(_column(each, machine, gpus, state, measure(shadow, load, compute), load, work))
    return Plan(
        backbone=config.backbone.name,
        strategy=strategy_of(config.trainer) + (" with offload" if config.trainer.offload else ""),
        precision=config.trainer.precision,
        compute=compute,
        gpus=gpus,
        steps=config.optim.steps,
        parameters=parameters,
        state=state,
        columns=columns,
        machine=machine,
    )


def _column(
    config: Config, machine: Machine, gpus: int, state: State, activations: Activations, load: Load, work: Work
) -> Column:
    micro_batches = gpus * config.optim.accumulate
    seconds = machine.step_seconds
    if seconds is None:
        flops = work.total * config.optim.accumulate
        seconds = flops / (machine.peak_tflops * 1e12 * machine.utilisation)
    peak = state.on_gpu + activations.total + machine.reserve_gib * GIB
    return Column(
        percent=load.percent,
        activations=activations,
        load=load,
        work=work,
        peak=peak,
        fits=peak <= machine.card_gib * GIB,
        samples=micro_batches * load.rows * load.samples,
        tokens=micro_batches * load.rows * load.tokens,
        places=micro_batches * load.rows * load.length,
        patches=micro_batches * load.frames * (config.backbone.image_size // config.backbone.patch_size) ** 2,
        vision_tokens=micro_batches * load.kept_windows,
        step_seconds=seconds,
        hours=config.optim.steps * seconds / 3600,
    )


def remedy(config: Config, made: Plan) -> tuple[str, str]:
    """The largest item on a GPU, and what makes it smaller."""
    largest = max(made.items(), key=lambda name: made.items()[name])
    return largest, _less_activations(config) if largest == "activations" else _less_state(config)


def _less_state(config: Config) -> str:
    shares = {
        "zero1": "share the gradients out too: trainer.strategy=zero2",
        "zero2": "share the weights out too: trainer.strategy=zero3",
        "fsdp2": "more GPUs, trainer.num_nodes, of which each holds less",
        "zero3": "trainer.offload=true, or more GPUs",
    }
    return shares.get(strategy_of(config.trainer), "share it out over GPUs: trainer.strategy=zero2, zero3 or fsdp2")


def _less_activations(config: Config) -> str:
    optim = config.optim
    if config.backbone.activation_checkpointing != "all":
        return "backbone.activation_checkpointing=all"
    if optim.batch_size > 1:
        half = optim.batch_size // 2
        return f"optim.batch_size={half} optim.accumulate={optim.accumulate * optim.batch_size // half}"
    return "fewer frames (data.packing.max_frames, video.max_frames), or more pruning"


def summary(made: Plan) -> dict[str, Any]:
    """One flat row of a comparison."""
    own = made.columns[-1]
    return {
        "strategy": made.strategy,
        "gpus": made.gpus,
        "state": made.state.on_gpu,
        "activations": own.activations.total,
        "peak": own.peak,
        "host": made.state.host,
        "fits": own.fits,
        "hours": own.hours,
    }


def trainer_names(given: str) -> list[str]:
    """`all`, or names with commas between them; a wrong one is found when its file is read."""
    return sorted(path.stem for path in (CONF_DIR / "trainer").glob("*.yaml")) if given == "all" else given.split(",")
