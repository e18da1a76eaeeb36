"""The batches of a training, in an order that is known beforehand or can be taken up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.utils.data import ConcatDataset, DataLoader, Dataset

from stts_lightning.config import Config
from stts_lightning.data.collate import Collate
from stts_lightning.data.dataset import ImageQuestions, TextQuestions, VideoQuestions
from stts_lightning.data.encode import ImageSample, Sample
from stts_lightning.data.packing import Packer, Size
from stts_lightning.data.sampler import KindSampler, images_before
from stts_lightning.data.steps import StepBatches
from stts_lightning.data.stream import WARMUP_EPOCHS, PackedBatches, PackedStream, StreamSampler, StreamState
from stts_lightning.prune.budget import prune_count


@dataclass(frozen=True)
class Place:
    """Which process of how many this is, and how many micro-batches are behind it; ``streams`` is where the packed
    streams stood after the last of them."""

    rank: int = 0
    world_size: int = 1
    done_batches: int = 0
    warmup_batches: int = 0
    streams: dict[str, Any] | None = None


class Source(NamedTuple):
    """What batches are made of and how: ``load`` makes the DataLoader of a data set. Texts are mixed with the videos,
    behind which they are numbered."""

    videos: VideoQuestions
    texts: TextQuestions
    images: ImageQuestions
    image_share: float
    collate: Collate
    load: Callable[..., DataLoader]


def training_batches(config: Config, source: Source, place: Place) -> StepBatches:
    """All micro-batches of the run from ``place`` on."""
    videos, texts, images, image_share, collate, load = source
    optim = config.optim
    num_batches = optim.steps * optim.accumulate
    if config.data.packing.enabled:
        return StepBatches(_packed(config, source, place), optim.accumulate)
    order: dict[str, Any] = {
        "batch_size": optim.batch_size,
        "num_batches": num_batches,
        "seed": config.seed,
        "warmup_batches": place.warmup_batches,
        "done_batches": place.done_batches,
        "rank": place.rank,
        "world_size": place.world_size,
    }
    counts = len(videos) + len(texts), len(images)
    sampler = KindSampler(*counts, image_share, num_scored=len(videos), **order)
    everything = ConcatDataset([videos, texts, images])
    return StepBatches(load(everything, batch_sampler=sampler, collate_fn=collate), optim.accumulate)


def _packed(config: Config, source: Source, place: Place) -> PackedBatches:
    videos, texts, images, image_share, collate, load = source
    packing, num_batches = config.data.packing, config.optim.steps * config.optim.accumulate

    def stream(dataset: Dataset, kind: str, start: int = 0) -> PackedStream:
        known = (place.streams or {}).get(kind)
        state = StreamState(next=start) if known is None else StreamState(**known)
        sampler = StreamSampler(len(dataset), config.seed, state, place.rank, place.world_size)  # type: ignore[arg-type]
        samples = load(dataset, sampler=sampler, batch_size=None, collate_fn=_as_it_is)
        packer: Packer[tuple[int, Any]] = Packer(packing.max_tokens, packing.max_frames, packing.buffer)
        size = sample_size(config)
        return PackedStream(samples, sampler, packer, size, collate, config.optim.batch_size)

    streams = {}
    if videos or texts:
        streams["videos"] = stream(ConcatDataset([videos, texts]), "videos")
    if videos:
        streams["warmup"] = stream(videos, "warmup", -len(videos) * WARMUP_EPOCHS // place.world_size)
    if images:
        streams["images"] = stream(images, "images")

    def kind_of(batch: int) -> str:
        if batch < 0:
            return "warmup"
        is_image = images_before(batch + 1, image_share) > images_before(batch, image_share)
        return "images" if images and is_image else "videos"

    batches = range(place.done_batches - place.warmup_batches, num_batches)
    return PackedBatches(streams, kind_of, batches, place.warmup_batches + num_batches, place.streams or {})


def sample_size(config: Config) -> Callable[[Any], Size]:
    """What a sample takes of a sequence: its tokens as they are, or as pruning leaves them."""
    prune = config.prune
    percent = min(prune.percent_range or [prune.percent]) if config.data.packing.count == "kept" else 0.0

    def size(sample: Any) -> Size:
        tokens = len(sample.tokens["input_ids"])
        if isinstance(sample, ImageSample):
            return Size(tokens, len(sample.crops))
        if not isinstance(sample, Sample):
            return Size(tokens, 0)
        frames, rows, columns = sample.grid
        return Size(tokens - prune_count(percent, frames, rows * columns), frames)

    return size


def _as_it_is(sample: Any) -> Any:
    return sample
