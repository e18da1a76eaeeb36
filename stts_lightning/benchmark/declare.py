"""What a benchmark is: one file of conf/benchmark/, loaded strictly."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

from stts_lightning.config import BENCHMARK_CONTROLS
from stts_lightning.config.declaration import check_one_of, read_declaration

GROUPS = ("short", "long", "image", "multi_image")
OPTIONS = ("plain", "labelled", "literal", "numbered", "lines", "in_question", "captions", "yes_no", "none")
ANSWERS = ("index", "letter", "any_letter", "text", "line", "yes_no", "free", "list", "votes", "auto")
SUBTITLES = ("none", "video_mme", "long_video")


@dataclass
class Source:
    """Where the questions come from. Patterns are below ``<root>/<folder>``, which holds the source's own tree."""

    folder: str = ""
    files: list[str] = field(default_factory=list)  # each must match; the questions of all of them are asked
    or_files: list[str] = field(default_factory=list)  # the same questions as their authors also publish them
    hub: str | None = None  # data set on the Hugging Face hub; null: to be fetched by hand
    config: str | None = None  # of the hub's data set, as its page calls it
    revision: str | None = None
    address: str = ""
    gated: bool = False
    unpack: str = ""  # what to do with the archives


@dataclass
class Columns:
    """Column names of a row; ``id`` and ``category`` are templates over them.

    Beside a row's own columns a template knows ``_file`` (stem of its file), ``_task`` (that without a leading
    number), ``_folder`` (the folder that the file is in), ``_row`` (number in the file) and ``_key`` (in a JSON
    object of questions).
    """

    id: str = "{_row}"
    question: str = "question"
    options: list[str] = field(default_factory=list)  # one column that holds all, or a column an option
    answer: str = "answer"
    category: str = ""
    start: str = ""  # seconds
    end: str = ""  # seconds
    nested: str = ""  # column with a list of questions on the row's video


@dataclass
class Media:
    """The videos or images of a row; paths are templates, and the first that exists is taken."""

    paths: list[str] = field(default_factory=list)
    folders: dict[str, str] = field(default_factory=dict)  # {folder} of a path, by the questions' file
    frames_fps: float | None = None  # of videos that come as a folder of pictures
    decoder: str = "auto"
    pyav: list[str] = field(default_factory=list)  # videos, by the end of their path, that decord must not read
    images: list[str] = field(default_factory=list)  # columns with pictures or paths of pictures, empty ones skipped


@dataclass
class Subtitles:
    layout: str = "none"
    path: str = ""  # template


@dataclass
class Ask:
    """How one kind of question is put and judged."""

    options: str = "plain"  # how they are stored
    answer: str = "letter"  # how the right one is stored
    prompt: str = "letter_directly"  # a name of prompts.FORMATS
    extract: str = "em_start"  # a name of extract.RULES
    metric: str = "choice"  # a name of score.METRICS


@dataclass
class Benchmark:
    name: str = ""
    title: str = ""  # the paper's column
    group: str = "short"
    split: str = ""
    paper_split: str | None = None  # where the paper's column is another one, whose answers are not public
    version: int = 1  # goes up with everything that changes a number
    source: Source = field(default_factory=Source)
    columns: Columns = field(default_factory=Columns)
    media: Media = field(default_factory=Media)
    subtitles: Subtitles = field(default_factory=Subtitles)
    kind: str = "all"  # template that names the entry of `ask`
    ask: dict[str, Ask] = field(default_factory=dict)
    drop_answers: list[str] = field(default_factory=list)  # rows without a right answer
    drop_prompts_with: list[str] = field(default_factory=list)
    category_mean: str | None = None  # name of the unweighted mean over categories, where it is usual
    max_new_tokens: int = 12
    controls: list[str] = field(default_factory=lambda: ["no_vision", "random_choice"])

    @property
    def has_video(self) -> bool:
        return self.group in ("short", "long")


def load_benchmark(name: str | Path) -> Benchmark:
    """The declaration ``conf/benchmark/<name>.yaml``, or any YAML file by its path.

    Raises:
        ValueError: no such benchmark, an unknown key or a value that is not allowed; names the nearest valid one.
    """
    benchmark, path = read_declaration(
        Benchmark, "benchmark", name, _known_keys(), lambda merged: (merged.ask, merged.media.folders)
    )
    _check(benchmark, path)
    return benchmark


def _check(benchmark: Benchmark, path: Path) -> None:
    from stts_lightning.benchmark.extract import RULES
    from stts_lightning.benchmark.prompts import FORMATS
    from stts_lightning.benchmark.score import METRICS

    def one_of(key: str, value: str, allowed: Iterable[str]) -> None:
        check_one_of(path, key, value, allowed)

    one_of("name", benchmark.name, (path.stem,))
    one_of("group", benchmark.group, GROUPS)
    one_of("subtitles.layout", benchmark.subtitles.layout, SUBTITLES)
    one_of("media.decoder", benchmark.media.decoder, ("auto", "decord", "pyav"))
    for control in benchmark.controls:
        one_of("controls", control, BENCHMARK_CONTROLS[1:])
    if not benchmark.ask:
        raise ValueError(f"{path}: `ask` is empty; it says how a question is put, read and judged.")
    for kind, ask in benchmark.ask.items():
        one_of(f"ask.{kind}.options", ask.options, OPTIONS)
        one_of(f"ask.{kind}.answer", ask.answer, ANSWERS)
        one_of(f"ask.{kind}.prompt", ask.prompt, FORMATS)
        one_of(f"ask.{kind}.extract", ask.extract, RULES)
        one_of(f"ask.{kind}.metric", ask.metric, METRICS)


def _known_keys() -> list[str]:
    return [f.name for kind in (Benchmark, Source, Columns, Media, Subtitles, Ask) for f in fields(kind)]
