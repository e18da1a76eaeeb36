"""Every setting with its default, as dataclasses; values are checked where they are set.

Here is how a run is trained, swept and tracked; `model.py` and `data.py` have the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stts_lightning.config.checks import one_of, positive
from stts_lightning.config.data import BenchmarkConfig, DataConfig, ImageConfig, VideoConfig
from stts_lightning.config.model import BackboneConfig, PruneConfig, check_percent
from stts_lightning.config.paths import domain_names, method_names

STRATEGIES = ("auto", "ddp", "fsdp2", "zero1", "zero2", "zero3")
PRECISIONS = ("32-true", "bf16-mixed", "bf16-true")
VARIANTS = ("trained", "inference_only", "test_time_scaling", "other_percent")
KINDS = ("sweep", "bench", "images", "pruned", "domains")


@dataclass
class OptimConfig:
    """Section 4.1 of the paper, with Molmo2's AdamW settings."""

    steps: int = 6250
    batch_size: int = 8  # clips per process and micro-batch
    accumulate: int = 1
    lr_language: float = 1e-5
    lr_vision: float = 5e-6  # ViT and projector
    lr_scorer: float = 1e-4
    warmup_steps: int = 200
    min_lr_ratio: float = 0.1
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-6
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    dense_weight: float = 0.0  # of the labels on vision tokens: the generated set's stand-in for captions

    def __post_init__(self) -> None:
        for key in (
            "steps",
            "batch_size",
            "accumulate",
            "lr_language",
            "lr_vision",
            "lr_scorer",
            "clip_norm",
        ):
            positive(f"optim.{key}", getattr(self, key))


@dataclass
class AuxConfig:
    """The auxiliary loss (paper 3.4) and its schedule."""

    weight: float | None = None  # null takes the preset's: paper 1, released 0.5
    schedule: str = "constant"
    end_weight: float = 0.0  # where `linear` arrives
    ramp_start: int = 0  # step
    ramp_end: int = 0  # step
    scorer_warmup_steps: int = 0  # before optim.steps: auxiliary loss alone, all but the scorer frozen

    def __post_init__(self) -> None:
        one_of("aux.schedule", self.schedule, ("constant", "linear"))
        if self.schedule == "linear" and self.ramp_end <= self.ramp_start:
            raise ValueError(
                f"aux.ramp_end={self.ramp_end} must be greater than aux.ramp_start={self.ramp_start} "
                "when aux.schedule=linear."
            )


@dataclass
class TrainerConfig:
    accelerator: str = "auto"
    devices: int = 1  # of a node
    num_nodes: int = 1
    strategy: str = "auto"  # auto: ddp where there is more than one process
    offload: bool = False  # zero2 and zero3: the optimizer on the CPU, and with zero3 the weights: slower, less memory
    precision: str = "32-true"
    num_threads: int = 1  # CPU threads of a run
    checkpoint_every: int = 100  # optimizer steps
    eval_every: int | None = None  # optimizer steps; null evaluates once, after training
    log_every: int = 20  # optimizer steps
    throughput_warmup: int = 5  # steps left out of the throughput
    progress: bool = True

    def __post_init__(self) -> None:
        one_of("trainer.strategy", self.strategy, STRATEGIES)
        one_of("trainer.precision", self.precision, PRECISIONS)
        if self.offload and self.strategy not in ("zero2", "zero3"):
            raise ValueError(
                f"trainer.offload=true needs trainer.strategy=zero2 or zero3, not {self.strategy!r}: nothing else is "
                "kept on the CPU."
            )
        for key in ("devices", "num_nodes", "num_threads", "checkpoint_every", "log_every"):
            positive(f"trainer.{key}", getattr(self, key))


@dataclass
class PretrainConfig:
    """The tiny model's stand-in for the captioner checkpoint that the paper starts from."""

    enabled: bool = False
    steps: int = 850
    batch_size: int = 16
    lr: float = 5e-3
    warmup_steps: int = 50
    dense_weight: float = 0.3
    domain: str | None = None  # of conf/domain/, to pretrain on; null: as the run's own data
    num_threads: int = 2
    num_workers: int = 1  # it is alone on the machine and meets every clip for the first time

    def __post_init__(self) -> None:
        if self.domain is not None:
            one_of("pretrain.domain", self.domain, domain_names())


@dataclass
class SweepConfig:
    percents: list[float] = field(default_factory=lambda: [30.0, 40.0, 50.0])
    methods: list[str] = field(default_factory=lambda: ["stts", "random", "heuristic"])  # fine-tuned
    inference_only: list[str] = field(default_factory=list)  # methods put on the unpruned model, without training
    layers: list[int] = field(default_factory=list)  # l; none: prune.layer alone
    seeds: list[int] = field(default_factory=lambda: [0])
    unpruned: bool = True  # fine-tune without pruning too: what the others are compared with
    test_time_scaling: bool = False  # evaluate each pruned model on more frames too: as many tokens as unpruned
    jobs: int = 0  # runs at a time; 0: one a GPU, or on a CPU as many as cores / trainer.num_threads
    quick: bool = False

    def __post_init__(self) -> None:
        for percent in self.percents:
            check_percent(percent)
        for method in self.methods:
            one_of("sweep.methods", method, method_names())
        for method in self.inference_only:
            one_of("sweep.inference_only", method, method_names())
        if any(layer < 0 for layer in self.layers):
            raise ValueError(f"sweep.layers={self.layers}: blocks are counted from 0.")


@dataclass
class ExperimentConfig:
    """Which experiment of experiments/ this is, and what its line does."""

    name: str = ""  # of the file; load_config sets it
    # bench: speed alone; images: a sweep, then image questions; pruned: a sweep, then its pictures; domains: a sweep
    # for each domain and checkpoint
    kind: str = "sweep"
    tables: list[str] = field(default_factory=list)  # of a bench
    rounds: int = 5  # of a bench
    shapes: list[list[int]] = field(default_factory=list)  # of a bench: (videos, frames) each; none: its own
    clips: int = 4  # of the evaluation data, that `pruned` shows
    video: str | None = None  # a file that `pruned` shows beside them
    domains: list[str] = field(default_factory=list)  # of conf/domain/
    checkpoints: list[int] = field(default_factory=lambda: [0])  # seeds of as many pretrainings

    def __post_init__(self) -> None:
        one_of("experiment.kind", self.kind, KINDS)
        positive("experiment.rounds", self.rounds)
        for domain in self.domains:
            one_of("experiment.domains", domain, domain_names())
        if self.kind == "domains" and not (self.domains and self.checkpoints):
            raise ValueError("experiment.kind=domains needs experiment.domains and experiment.checkpoints.")


@dataclass
class TrackingConfig:
    enabled: bool = True
    uri: str = "sqlite:///outputs/mlflow.db"
    artifacts: str = "outputs/mlartifacts"
    experiment: str = "stts-lightning"

    def __post_init__(self) -> None:
        if not self.uri.startswith(("sqlite:///", "http://", "https://", "postgresql", "mysql")):
            raise ValueError(
                f"tracking.uri={self.uri!r}: MLflow's file store is not supported. "
                "Use sqlite:///path/to/mlflow.db or the address of a server."
            )


@dataclass
class Config:
    seed: int = 0
    output_dir: str = "outputs"
    init_from: str | None = None  # a saved model folder to start from; null takes backbone.pretrained
    variant: str = "trained"  # the others evaluate the model of init_from as it is
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    prune: PruneConfig = field(default_factory=PruneConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    image: ImageConfig = field(default_factory=ImageConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    aux: AuxConfig = field(default_factory=AuxConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    benchmark: BenchmarkConfig = field(default_factory=BenchmarkConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)

    def __post_init__(self) -> None:
        one_of("variant", self.variant, VARIANTS)
        if self.benchmark.names and self.trainer.strategy in ("fsdp2", "zero3"):
            raise ValueError(
                f"benchmark.names: the first process asks alone, and with trainer.strategy={self.trainer.strategy} it "
                "has a part of the weights. Ask the finished model: python -m stts_lightning benchmark."
            )
        if self.prune.method == "stts_distill" and self.trainer.strategy in ("fsdp2", "zero3"):
            raise ValueError(
                "prune.method=stts_distill: its teacher runs parts of the model apart, and with "
                f"trainer.strategy={self.trainer.strategy} no process has their weights. Take ddp, zero1 or zero2."
            )
        if self.variant != "trained" and self.init_from is None:
            raise ValueError(f"variant={self.variant!r} evaluates a model that is there: give its folder as init_from.")
