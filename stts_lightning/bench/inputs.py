"""The input side alone: what decoding a clip costs, and how many clips a second the loader delivers."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from stts_lightning.config import Config, VideoConfig, load_config
from stts_lightning.data.datamodule import VideoQuestionData
from stts_lightning.data.generate import make_clip
from stts_lightning.molmo2.load import tiny_tokenizer
from stts_lightning.video.reader import ClipReader
from stts_lightning.video.write import write_h264

WAYS = (("decord", "molmo2"), ("decord", "decoder"), ("pyav", "molmo2"), ("pyav", "decoder"))
TIMEOUT_S = 600.0
TILE = 64  # pixels between the blobs of the test picture


class Sizes(NamedTuple):
    """How much is measured; tests take less."""

    width: int = 1280
    height: int = 720
    seconds: int = 20
    fps: int = 30
    keyframe_intervals: tuple[int, ...] = (30, 250)
    max_fps: tuple[float | None, ...] = (VideoConfig.fps, None)  # None: as many frames as are allowed at all
    side: int = 378  # pixels of the frames that the model sees
    ways: tuple[tuple[str, str], ...] = WAYS  # video.decoder and video.resize
    clips: int = 96  # of the loader's set
    num_workers: tuple[int, ...] = (0, 1, 2)


FULL = Sizes()


def input_tables(repeats: int = 3, sizes: Sizes = FULL) -> dict[str, list[dict[str, Any]]]:
    """The tables "decoders" and "loader" as flat rows; all files are temporary.

    "decoders": a row for each way to read one made clip, through `ClipReader` in a process of its own, as in
    training: the milliseconds hold the frame table, decoding, resizing and the way through the pipe. `peak_mib` is
    the most memory that the process ever held, 240 of it before the first clip; it is left out where /proc is missing.

    "loader": clips a second of the `DataLoader` alone with the tiny backbone's sizes, cold (every clip decoded) and
    warm (every clip in its worker's memory); what the model does beside it is not counted.

    Each row is one discarded and `repeats` timed passes, with their median and extremes. The files are read from the
    system's cache, not from a disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        return {
            "decoders": decoder_rows(Path(folder), repeats, sizes),
            "loader": loader_rows(Path(folder), repeats, sizes),
        }


# ---- decoders ----------------------------------------------------------------------------------------------


def decoder_rows(folder: Path, repeats: int, sizes: Sizes) -> list[dict[str, Any]]:
    rows = []
    # decord has no build for some platforms.
    ways = [way for way in sizes.ways if way[0] != "decord" or find_spec("decord")]
    for interval in sizes.keyframe_intervals:
        path = folder / f"keyframes{interval}.mp4"
        write_h264(path, moving_picture(sizes), sizes.fps, interval)
        for max_fps in sizes.max_fps:
            for (decoder, resize), measured in zip(
                ways, _decode(path, repeats, sizes.side, max_fps, ways), strict=True
            ):
                rows.append({"decoder": decoder, "resize": resize, "keyframe_interval": interval, **measured})
    return rows


def moving_picture(sizes: Sizes) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8: coloured blobs with a grain of their own, and one that drifts over the still rest.

    At 720p and 30 fps 1 to 3.4 Mbit a second, as films have: moving noise all over would cost most of the decoding.
    """
    random = np.random.default_rng(0)
    y, x = np.mgrid[: sizes.height, : sizes.width].astype(np.float32) * (2 * np.pi / TILE)
    blobs = np.stack([np.sin(x) * np.sin(y), np.sin(x + y), np.cos(x) * np.sin(y)], axis=-1)
    still = (128 + 90 * blobs).astype(np.uint8) + random.integers(0, 24, (*x.shape, 1), dtype=np.uint8)
    moving, side = still[::-1, ::-1], min(sizes.height, sizes.width) // 2
    for number in range(sizes.seconds * sizes.fps):
        frame = still.copy()
        at = 3 * number % (sizes.width - side)
        frame[side // 2 : side // 2 + side, at : at + side] = moving[:side, :side]
        yield frame


def _decode(
    path: Path, repeats: int, side: int, max_fps: float | None, ways: list[tuple[str, str]]
) -> list[dict[str, Any]]:
    """Each way once a pass, in turn: what else the machine does falls on all of them."""
    readers = [ClipReader(timeout_s=TIMEOUT_S) for _ in ways]
    times_ms: list[list[float]] = [[] for _ in ways]
    for _ in range(1 + repeats):
        for reader, times, (decoder, resize) in zip(readers, times_ms, ways, strict=True):
            asked = {"size": side, "max_frames": VideoConfig.max_frames, "max_fps": max_fps}
            started = time.perf_counter()
            clip = reader.read(path, **asked, decoder=decoder, resize=resize)
            times.append(1000 * (time.perf_counter() - started))
    rows = []
    for reader, times in zip(readers, times_ms, strict=True):
        rows.append(
            {
                "sampling": f"{max_fps:g} fps" if max_fps else "even",
                "frames": len(clip.frames),
                **_spread(times[1:], "ms"),
                "frames_per_s": 1000 * len(clip.frames) / statistics.median(times[1:]),
                **_peak_mib(reader.child_pid),
            }
        )
        reader.close()
    return rows


def _peak_mib(pid: int | None) -> dict[str, float]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return {"peak_mib": next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024}
    except (OSError, StopIteration):
        return {}


# ---- the loader --------------------------------------------------------------------------------------------


def loader_rows(folder: Path, repeats: int, sizes: Sizes) -> list[dict[str, Any]]:
    (folder / "train").mkdir()
    config = load_config(["data=files", "data.frame_cache_dir=null"])
    lines = [
        json.dumps(row) for i in range(sizes.clips) for row in make_clip((folder, "train", i, config.data.generated))
    ]
    (folder / "clips.jsonl").write_text("\n".join(lines), encoding="utf-8")
    tokenizer = tiny_tokenizer()
    rows = []
    for workers in sizes.num_workers:
        for cache, mib in (("cold", 0), ("warm", config.data.frame_cache_mib)):
            file = str(folder / "clips.jsonl")
            data = replace(config.data, train=file, eval=file, num_workers=workers, frame_cache_mib=mib)
            measured = _load(replace(config, data=data), tokenizer, repeats)
            rows.append({"num_workers": workers, "cache": cache, **measured})
    return rows


def _load(config: Config, tokenizer: PreTrainedTokenizerBase, repeats: int) -> dict[str, Any]:
    data = VideoQuestionData(config, tokenizer)
    data.setup()
    # The evaluation's order is fixed, so that a batch comes back to the worker that has it in memory.
    loader = data.val_dataloader()
    threads = torch.get_num_threads()
    torch.set_num_threads(config.trainer.num_threads)  # without workers it is this process that loads
    rates, last = [], {}
    for _ in range(1 + repeats):  # the first pass starts the processes and fills the memory
        started, clips = time.perf_counter(), 0
        for batch in loader:
            clips, last = clips + len(batch["sources"]), batch
        rates.append(clips / (time.perf_counter() - started))
    torch.set_num_threads(threads)
    _stop(loader)
    in_batch = len(last["sources"])
    return {
        **_spread(rates[1:], "clips_per_s"),
        "clips": clips,
        "batch_size": config.optim.batch_size,
        "frames_per_clip": len(last["frames"]) / in_batch,
        "questions_per_clip": sum(map(len, last["asked"])) / in_batch,
        "tokens_per_clip": last["input_ids"].numel() / in_batch,
        "bytes_per_clip": sum(t.nbytes for t in last.values() if isinstance(t, torch.Tensor)) / in_batch,
    }


def _stop(loader: DataLoader) -> None:
    """End the workers, or this process's own decoder, before the next loader starts its own."""
    loader._iterator = None
    videos, *_ = loader.dataset.datasets
    videos.reader.close()


def _spread(values: list[float], unit: str) -> dict[str, float]:
    return {f"{unit}_median": statistics.median(values), f"{unit}_min": min(values), f"{unit}_max": max(values)}
