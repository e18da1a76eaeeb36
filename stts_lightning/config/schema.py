"""Every setting with its default, as dataclasses; values are checked where they are set."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from stts_lightning.config.paths import benchmark_names, method_names

FIXED_PERCENT = {"none": 0.0, "text_only": 100.0}  # the two ends, whatever the percentage beside them
PRESETS = ("paper", "released")
LAYOUTS = ("flat", "packed")
POSITIONS = ("renumbered", "original")
ATTENTION = ("auto", "sdpa", "eager", "flex_attention")
DECOYS = ("flash", "move")
BENCHMARK_CONTROLS = ("none", "no_vision", "random_choice")
CHECKPOINTING = ("none", "vision", "language", "all")
VARIANTS = ("trained", "inference_only", "test_time_scaling")
KINDS = ("sweep", "bench", "images", "pruned")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{key}={value!r} is not one of {', '.join(allowed)}.{hint}")


def _positive(key: str, value: float) -> None:
    if value <= 0:
        raise ValueError(f"{key}={value} must be greater than 0.")


@dataclass
class PruneConfig:
    """What is pruned, where and by which scores (paper, section 3)."""

    method: str = "stts"
    percent: float = 50.0  # k %, 0-100: the share of all windows of a video that leave
    layer: int = 3  # l: the scorer reads the output of this ViT block (0-based)
    preset: str = "paper"  # paper: what the text says; released: what the authors' vision code does
    layout: str = "flat"  # of what is left of the frames: one sequence without padding, or packed, the paper's rows
    positions: str = "renumbered"  # of the surviving prompt tokens; original keeps the gaps
    seed: int = 0  # scorer initialisation, and the mask that `random` uses in evaluation
    options: dict[str, Any] = field(default_factory=dict)  # what the method's own class takes

    def __post_init__(self) -> None:
        _one_of("prune.method", self.method, method_names())
        _one_of("prune.preset", self.preset, PRESETS)
        _one_of("prune.layout", self.layout, LAYOUTS)
        _one_of("prune.positions", self.positions, POSITIONS)
        check_percent(self.percent)
        self.percent = FIXED_PERCENT.get(self.method, self.percent)
        if self.layer < 0:
            raise ValueError(f"prune.layer={self.layer} must be 0 or more: blocks are counted from 0.")


def check_percent(percent: float) -> None:
    """Raise ValueError unless ``percent`` is a number in 0..100."""
    if not 0 <= percent <= 100:
        raise ValueError(f"prune.percent={percent} is not in 0..100. It is the paper's k %, so 50 means one half.")


@dataclass
class TinyConfig:
    """Sizes of the tiny Molmo2 that is built with random weights."""

    vit_hidden: int = 32
    vit_heads: int = 2
    vit_mlp: int = 64
    vit_layers: int = 4
    feature_layers: list[int] = field(default_factory=lambda: [3, 2])
    adapter_mlp: int = 192
    text_hidden: int = 96
    text_heads: int = 3
    text_mlp: int = 192
    text_layers: int = 2
    rope_theta: float = 1e5
    initializer_range: float = 0.12
    position_std: float = 0.3  # of the ViT's position embeddings; transformers' own 0.02 learns far slower
    seed: int = 0


@dataclass
class BackboneConfig:
    name: str = "tiny"
    pretrained: str | None = None  # hub id or folder; null builds the tiny configuration
    revision: str | None = None
    image_size: int = 48  # pixels; frames are resized to a square
    patch_size: int = 4  # pixels
    window: int = 3  # w: patches on one side of a pooled window
    attention: str = "auto"  # of the language model; auto: flex_attention on a GPU, else sdpa
    dtype: str = "float32"
    activation_checkpointing: str = "none"  # whose activations are recomputed in the backward pass: slower, less memory
    compile: bool = False  # torch.compile the blocks of the ViT and of the language model
    tiny: TinyConfig = field(default_factory=TinyConfig)

    def __post_init__(self) -> None:
        _one_of("backbone.attention", self.attention, ATTENTION)
        _one_of("backbone.activation_checkpointing", self.activation_checkpointing, CHECKPOINTING)
        _one_of("backbone.dtype", self.dtype, ("float32", "bfloat16"))
        if self.image_size % self.patch_size:
            raise ValueError(
                f"backbone.image_size={self.image_size} is not a multiple of patch_size={self.patch_size}."
            )


@dataclass
class VideoConfig:
    """Frame sampling and decoding."""

    fps: float = 2.0
    max_frames: int = 64
    decoder: str = "auto"
    resize: str = "molmo2"  # its own arithmetic; decoder: scaled while decoding, faster, and other pixels
    decode_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        _one_of("video.decoder", self.decoder, ("auto", "decord", "pyav"))
        _one_of("video.resize", self.resize, ("molmo2", "decoder"))
        _positive("video.fps", self.fps)
        _positive("video.decode_timeout_s", self.decode_timeout_s)
        if self.max_frames < 2:
            raise ValueError(f"video.max_frames={self.max_frames} must be 2 or more: the last frame is always in.")


@dataclass
class ImageConfig:
    """How a picture is cut: one crop of the whole, and overlapping ones that tile it at a higher resolution."""

    max_crops: int = 8  # of the tiling, at most; the whole picture is one more
    overlap_margins: list[int] = field(default_factory=lambda: [4, 4])  # patches left of and right of a crop's own
    window: int = 2  # patches on one side of a pooled window
    column_tokens: bool = True  # one after each row of windows of the tiling
    low_res_column_tokens: bool = True  # and of the whole picture

    def __post_init__(self) -> None:
        _positive("image.max_crops", self.max_crops)
        _positive("image.window", self.window)
        if len(self.overlap_margins) != 2 or min(self.overlap_margins) < 0:
            raise ValueError(f"image.overlap_margins={self.overlap_margins} must be two numbers of patches, 0 or more.")


@dataclass
class GeneratedConfig:
    """The embedded video-question set, made from a seed at first use."""

    root: str = "outputs/generated"
    train_videos: int = 3000
    eval_videos: int = 150
    frame_size: int = 96  # pixels of the mp4
    fps: int = 8
    num_slots: int = 8  # sampled frames of a clip
    num_events: int = 3
    num_static: int = 2
    num_flicker: int = 3  # windows that flicker in every frame
    flicker_amplitude: float = 0.25
    texture: float = 0.06
    noise: float = 0.03
    seed: int = 0
    num_decoys: int = 0  # things in colours that no question asks about and no label names
    decoy: str = "flash"  # each shows now and then in a window of its own; move: wanders from window to window
    decoy_slots: int = 1  # sampled frames in which a flashing decoy shows
    camera_pixels: float = 0.0  # a second, by which all that lasts drifts through the frame, in one direction a clip

    def __post_init__(self) -> None:
        _one_of("data.generated.decoy", self.decoy, DECOYS)
        for key in ("num_static", "num_flicker", "num_decoys", "decoy_slots", "camera_pixels"):
            if getattr(self, key) < 0:
                raise ValueError(f"data.generated.{key}={getattr(self, key)} must be 0 or more.")
        if self.num_decoys and self.decoy_slots > self.num_slots - 2:
            raise ValueError(
                f"data.generated.decoy_slots={self.decoy_slots} does not fit: of num_slots={self.num_slots} sampled "
                "frames the first and the last show nothing new."
            )


@dataclass
class GeneratedImagesConfig:
    """The embedded image-question set, made at first use beside the videos: sets of one picture and of several."""

    train_sets: int = 2000
    eval_sets: int = 100
    pictures: int = 3  # of a set of several
    sides: list[int] = field(default_factory=lambda: [72, 96, 120])  # pixels; width and height are drawn from these
    num_shapes: int = 3  # asked about, in one picture or shared out among several
    num_static: int = 2  # in each picture, asked about never
    texture: float = 0.06
    noise: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.pictures <= 26:
            raise ValueError(f"data.generated_images.pictures={self.pictures} is not in 2..26: each is an option.")
        if not self.sides or min(self.sides) < 24:
            raise ValueError(f"data.generated_images.sides={self.sides}: name sides of 24 pixels or more.")


@dataclass
class DataConfig:
    name: str = "generated"
    train: str | None = None  # JSON Lines; null takes the generated set
    eval: str | None = None  # JSON Lines; null holds out videos of `train`
    eval_fraction: float = 0.2  # of the videos, at least one, when `eval` is null
    bad_sample_budget: float = 0.01  # share of the questions that may be unusable in training
    questions_per_clip: int = 16  # at most; they share the clip's tokens in one sequence
    max_text_tokens: int = 2048
    num_workers: int = 1
    frame_cache_mib: int = 512  # decoded clips kept in memory by each worker
    frame_cache_dir: str | None = None  # and on disk, for the runs that follow; null keeps none
    generated: GeneratedConfig = field(default_factory=GeneratedConfig)
    generated_images: GeneratedImagesConfig = field(default_factory=GeneratedImagesConfig)
    # Of the training batches; null: as the questions of `train` are, and none of the embedded image set.
    image_share: float | None = None

    def __post_init__(self) -> None:
        if self.image_share is not None and not 0 <= self.image_share <= 1:
            raise ValueError(f"data.image_share={self.image_share} is a share, 0 to 1.")
        if not 0 <= self.bad_sample_budget <= 1:
            raise ValueError(f"data.bad_sample_budget={self.bad_sample_budget} is a share, 0 to 1.")
        if not 0 < self.eval_fraction < 1:
            raise ValueError(f"data.eval_fraction={self.eval_fraction} is a share between 0 and 1.")


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
            _positive(f"optim.{key}", getattr(self, key))


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
        _one_of("aux.schedule", self.schedule, ("constant", "linear"))
        if self.schedule == "linear" and self.ramp_end <= self.ramp_start:
            raise ValueError(
                f"aux.ramp_end={self.ramp_end} must be greater than aux.ramp_start={self.ramp_start} "
                "when aux.schedule=linear."
            )


@dataclass
class TrainerConfig:
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    num_threads: int = 1  # CPU threads of a run
    checkpoint_every: int = 100  # optimizer steps
    log_every: int = 20  # optimizer steps
    throughput_warmup: int = 5  # steps left out of the throughput
    progress: bool = True


@dataclass
class PretrainConfig:
    """The tiny model's stand-in for the captioner checkpoint that the paper starts from."""

    enabled: bool = False
    steps: int = 850
    batch_size: int = 16
    lr: float = 5e-3
    warmup_steps: int = 50
    dense_weight: float = 0.3
    num_threads: int = 2
    num_workers: int = 1  # it is alone on the machine and meets every clip for the first time


@dataclass
class SweepConfig:
    percents: list[float] = field(default_factory=lambda: [30.0, 40.0, 50.0])
    methods: list[str] = field(default_factory=lambda: ["stts", "random", "heuristic"])  # fine-tuned
    inference_only: list[str] = field(default_factory=list)  # methods put on the unpruned model, without training
    layers: list[int] = field(default_factory=list)  # l; none: prune.layer alone
    seeds: list[int] = field(default_factory=lambda: [0])
    test_time_scaling: bool = False  # evaluate each pruned model on more frames too: as many tokens as unpruned
    jobs: int = 0  # runs at a time; 0: one a GPU, or on a CPU as many as cores / trainer.num_threads
    quick: bool = False

    def __post_init__(self) -> None:
        for percent in self.percents:
            check_percent(percent)
        for method in self.methods:
            _one_of("sweep.methods", method, method_names())
        for method in self.inference_only:
            _one_of("sweep.inference_only", method, method_names())
        if any(layer < 0 for layer in self.layers):
            raise ValueError(f"sweep.layers={self.layers}: blocks are counted from 0.")


@dataclass
class ExperimentConfig:
    """Which experiment of experiments/ this is, and what its line does."""

    name: str = ""  # of the file; load_config sets it
    kind: str = "sweep"  # bench: speed alone; images: a sweep, then image questions; pruned: a sweep, then its pictures
    tables: list[str] = field(default_factory=list)  # of a bench
    rounds: int = 5  # of a bench
    shapes: list[list[int]] = field(default_factory=list)  # of a bench: (videos, frames) each; none: its own
    clips: int = 4  # of the evaluation data, that `pruned` shows
    video: str | None = None  # a file that `pruned` shows beside them

    def __post_init__(self) -> None:
        _one_of("experiment.kind", self.kind, KINDS)
        _positive("experiment.rounds", self.rounds)


@dataclass
class BenchmarkConfig:
    """Public benchmarks that a model answers after its evaluation; none by default."""

    names: list[str] = field(default_factory=list)  # files of conf/benchmark/
    root: str = "benchmarks"  # a folder with one folder a benchmark, each as its source publishes it
    control: str = "none"  # no_vision: the questions without anything to look at; random_choice: no model
    limit: int | None = None  # the first so many questions of each
    batch_size: int = 1

    def __post_init__(self) -> None:
        for name in self.names:
            _one_of("benchmark.names", name, benchmark_names())
        _one_of("benchmark.control", self.control, BENCHMARK_CONTROLS)
        _positive("benchmark.batch_size", self.batch_size)
        if self.limit is not None:
            _positive("benchmark.limit", self.limit)


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
    variant: str = "trained"  # the other two evaluate the model of init_from as it is
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
        _one_of("variant", self.variant, VARIANTS)
        if self.variant != "trained" and self.init_from is None:
            raise ValueError(f"variant={self.variant!r} evaluates a model that is there: give its folder as init_from.")
