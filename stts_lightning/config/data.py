"""Settings of what the model is shown and asked: videos, pictures, the embedded sets, questions, benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field

from stts_lightning.config.checks import one_of, positive
from stts_lightning.config.paths import benchmark_names

DECOYS = ("flash", "move")
EVAL_SPLITS = ("test", "validation")
BENCHMARK_CONTROLS = ("none", "no_vision", "random_choice")


@dataclass
class VideoConfig:
    """Frame sampling and decoding."""

    fps: float = 2.0
    max_frames: int = 64
    decoder: str = "auto"
    resize: str = "molmo2"  # its own arithmetic; decoder: scaled while decoding, faster, and other pixels
    decode_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        one_of("video.decoder", self.decoder, ("auto", "decord", "pyav"))
        one_of("video.resize", self.resize, ("molmo2", "decoder"))
        positive("video.fps", self.fps)
        positive("video.decode_timeout_s", self.decode_timeout_s)
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
        positive("image.max_crops", self.max_crops)
        positive("image.window", self.window)
        if len(self.overlap_margins) != 2 or min(self.overlap_margins) < 0:
            raise ValueError(f"image.overlap_margins={self.overlap_margins} must be two numbers of patches, 0 or more.")


@dataclass
class GeneratedConfig:
    """The embedded video-question set, made from a seed at first use."""

    root: str = "outputs/generated"
    train_videos: int = 3000
    eval_videos: int = 150  # of the validation and of the test videos each
    frame_size: int = 96  # pixels of the mp4
    fps: int = 8
    num_slots: int = 8  # sampled frames of a clip
    num_events: int = 3  # from the fourth on in the colours that else only static things have
    num_static: int = 2
    num_flicker: int = 3  # windows that flicker in every frame
    flicker_amplitude: float = 0.25
    flicker_grain: int = 4  # pixels on a side of what flickers as one; a window's, frame_size / 4, is a multiple
    texture: float = 0.06
    noise: float = 0.03
    seed: int = 0
    num_decoys: int = 0  # things in colours that no question asks about and no label names
    decoy: str = "flash"  # each shows now and then in a window of its own; move: wanders from window to window
    decoy_slots: int = 1  # sampled frames in which a flashing decoy shows
    camera_pixels: float = 0.0  # a second, by which all that lasts drifts through the frame, in one direction a clip

    def __post_init__(self) -> None:
        one_of("data.generated.decoy", self.decoy, DECOYS)
        if self.flicker_grain < 1 or self.frame_size // 4 % self.flicker_grain:
            raise ValueError(
                f"data.generated.flicker_grain={self.flicker_grain} does not divide a window's side of "
                f"{self.frame_size // 4} pixels."
            )
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
class PackingConfig:
    """Samples that share a sequence in training, as Molmo2 packs them; evaluation takes them one by one."""

    enabled: bool = False  # then optim.batch_size counts sequences
    max_tokens: int = 16384  # of a sequence
    max_frames: int = 128  # frames or crops of a sequence
    buffer: int = 48  # samples to choose from
    count: str = "unpruned"  # kept: a sample's tokens are those that pruning leaves, so more samples fit

    def __post_init__(self) -> None:
        one_of("data.packing.count", self.count, ("unpruned", "kept"))
        for key in ("max_tokens", "max_frames", "buffer"):
            positive(f"data.packing.{key}", getattr(self, key))


@dataclass
class DataConfig:
    name: str = "generated"
    train: str | None = None  # JSON Lines; null takes the generated set
    eval: str | None = None  # JSON Lines; null holds out videos of `train`
    eval_split: str = "test"  # of the generated set: choices are made on `validation`, and `test` is for the end
    eval_fraction: float = 0.2  # of the videos, at least one, when `eval` is null
    bad_sample_budget: float = 0.01  # share of the questions that may be unusable in training
    questions_per_clip: int = 16  # at most; they share the clip's tokens in one sequence
    max_text_tokens: int = 2048
    num_workers: int = 1
    frame_cache_mib: int = 512  # decoded clips kept in memory by each worker
    frame_cache_dir: str | None = None  # and on disk, for the runs that follow; null keeps none
    packing: PackingConfig = field(default_factory=PackingConfig)
    generated: GeneratedConfig = field(default_factory=GeneratedConfig)
    generated_images: GeneratedImagesConfig = field(default_factory=GeneratedImagesConfig)
    # Of the training batches; null: as the questions of `train` are, and none of the embedded image set.
    image_share: float | None = None

    def __post_init__(self) -> None:
        if self.image_share is not None and not 0 <= self.image_share <= 1:
            raise ValueError(f"data.image_share={self.image_share} is a share, 0 to 1.")
        one_of("data.eval_split", self.eval_split, EVAL_SPLITS)
        if not 0 <= self.bad_sample_budget <= 1:
            raise ValueError(f"data.bad_sample_budget={self.bad_sample_budget} is a share, 0 to 1.")
        if not 0 < self.eval_fraction < 1:
            raise ValueError(f"data.eval_fraction={self.eval_fraction} is a share between 0 and 1.")


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
            one_of("benchmark.names", name, benchmark_names())
        one_of("benchmark.control", self.control, BENCHMARK_CONTROLS)
        positive("benchmark.batch_size", self.batch_size)
        if self.limit is not None:
            positive("benchmark.limit", self.limit)
