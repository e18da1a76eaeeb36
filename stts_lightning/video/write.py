"""Pictures become a video."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

PICTURES = (".jpg", ".jpeg", ".png")


def write_h264(path: Path, frames: Iterable[np.ndarray], fps: int, keyframe_interval: int | None = None) -> None:
    """Encode (H, W, 3) uint8 frames as an mp4, with a key frame every so many frames, or where x264 sees fit."""
    import av

    options: dict[str, object] = {"crf": "18", "preset": "veryfast", "threads": "1"}
    if keyframe_interval is not None:
        options["x264-params"] = f"keyint={keyframe_interval}:min-keyint={keyframe_interval}:scenecut=0"
    frames = iter(frames)
    first = next(frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.options = options
        for frame in itertools.chain([first], frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def playable(video: Path, frames_fps: float | None) -> Path:
    """The video itself, or an mp4 made once of a folder of pictures, beside that folder (MVBench, TVQA's frames)."""
    if not video.is_dir():
        return video
    if frames_fps is None:
        raise ValueError(f"{video} is a folder; media.frames_fps says at how many frames a second its pictures play.")
    made = video.with_name(f"{video.name}.made_of_pictures.mp4")
    if not made.is_file():
        pictures = sorted(path for path in video.iterdir() if path.suffix.lower() in PICTURES)
        if not pictures:
            raise ValueError(f"{video} holds no pictures.")
        aside = made.with_name(f"{made.stem}.part.mp4")
        write_h264(aside, map(_even_picture, pictures), round(frames_fps))
        aside.replace(made)
    return made


def _even_picture(path: Path) -> np.ndarray:
    """Pixels of a picture, cut to even sides, as H.264 wants them."""
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB"))
    return pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
