"""Figures 1 and 7: what each method prunes of the same frames, as contact sheets and as films side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from stts_lightning.config import Config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.experiment.models import models_left
from stts_lightning.molmo2.checkpoint import Pruned, load_pruned
from stts_lightning.molmo2.load import tiny_tokenizer
from stts_lightning.report import mlflow_runs
from stts_lightning.report.client import told_if_away, tracking_client
from stts_lightning.report.figures import contact_sheet
from stts_lightning.report.film import side_by_side
from stts_lightning.video import Clip, ClipReader
from stts_lightning.video.patches import frames_to_patches, video_grid, window_table
from stts_lightning.video.write import write_h264

SHOWN_PIXELS = 192  # side of a shown frame; at least the model's own


class Source(NamedTuple):
    """A video, or a part of one in seconds."""

    path: Path
    start: float | None
    end: float | None


def show_pruned(config: Config) -> int:
    """Write a contact sheet and an mp4 for the first clips of the evaluation data and for ``experiment.video``.

    Raises:
        ValueError: the video cannot be read.
    """
    left = models_left(config)
    loaded = {name: load_pruned(path, attention=config.backbone.attention) for name, path in left.models.items()}
    models = by_method({name: pruned for name, pruned in loaded.items() if pruned.handle.percent > 0})
    folder = left.out / "pruned"
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with ClipReader(timeout_s=config.video.decode_timeout_s) as reader:
        for number, source in enumerate(sources(left.config)):
            seen, shown = (_read(reader, config, source, side) for side in _sides(config))
            keeps = {name: kept_windows(model, seen, config) for name, model in models.items()}
            name = re.sub(r"[^\w.]+", "_", source.path.stem)
            files += _picture(folder / f"{number:02d}-{name}", source, shown, keeps)
    if config.tracking.enabled:
        with told_if_away(config.tracking, f"The files are in {folder}; the same command logs them."):
            client = tracking_client(config.tracking)
            run_id = mlflow_runs.find_run(client, left.out)
            if run_id is not None:
                mlflow_runs.log_files(client, run_id, files)
    print("Written: " + ", ".join(map(str, files)))
    return 0


def by_method(models: dict[str, Pruned]) -> dict[str, Pruned]:
    """Under the method's name where that tells them apart, else under the run's."""
    methods = [pruned.handle.config.method for pruned in models.values()]
    if len(set(methods)) < len(methods):
        return models
    return dict(zip(methods, models.values(), strict=True))


def sources(config: Config) -> list[Source]:
    """The first clips of the evaluation data, and the video that was named."""
    data = VideoQuestionData(config, tiny_tokenizer())  # it encodes nothing
    data.setup()
    found = [Source(clip.video, clip.start, clip.end) for clip in data.eval_clips[: config.experiment.clips]]
    named = config.experiment.video
    return found + ([] if named is None else [Source(Path(named), None, None)])


@torch.no_grad()
def kept_windows(pruned: Pruned, clip: Clip, config: Config) -> np.ndarray:
    """What the model keeps of a clip, (frames, windows)."""
    backbone = config.backbone
    side = backbone.image_size // backbone.patch_size
    patches = frames_to_patches(torch.from_numpy(clip.frames), backbone.patch_size)
    table = window_table(len(clip.frames), side, side, backbone.window)
    grid = tuple(video_grid(len(clip.frames), side, side, backbone.window))
    inner = pruned.model.eval().model
    features = inner.get_video_features(patches.to(inner.device), table.to(inner.device), [grid])
    keep: np.ndarray = features.pruning.keep[0].cpu().numpy()
    return keep


def _sides(config: Config) -> tuple[int, int]:
    """What the model sees, and what is shown: a multiple, so that windows end at whole pixels."""
    size = config.backbone.image_size
    return size, size * max(1, SHOWN_PIXELS // size)


def _read(reader: ClipReader, config: Config, source: Source, size: int) -> Clip:
    video = config.video
    return reader.read(
        str(source.path), size=size, max_frames=video.max_frames, max_fps=video.fps, start=source.start,
        end=source.end, decoder=video.decoder, resize=video.resize,
    )  # fmt: skip


def _picture(stem: Path, source: Source, shown: Clip, keeps: dict[str, np.ndarray]) -> list[Path]:
    """``stem``.png, ``stem``.mp4, and the decisions of each run."""
    decisions = {}
    for name, keep in keeps.items():
        decisions[name] = stem.with_name(f"{stem.name}-{name}.npz")
        np.savez_compressed(
            decisions[name], frames=shown.frames[None], keep=keep[None], scores=keep[None] * 1.0,
            times=shown.times[None], videos=[str(source.path)], num_frames=[len(shown.frames)],
        )  # fmt: skip
    sheet, film = stem.with_name(stem.name + ".png"), stem.with_name(stem.name + ".mp4")
    contact_sheet(decisions, sheet)
    seconds = float(shown.times[-1] - shown.times[0]) / max(len(shown.times) - 1, 1)
    write_h264(film, side_by_side(shown.frames, keeps), max(1, round(1 / seconds)) if seconds else 1)
    return [sheet, film]
