"""Videos made on the spot. Each frame tells its own number by its brightness, so that a wrong frame is caught."""

from fractions import Fraction
from pathlib import Path

import numpy as np

STEP, DARKEST = 14, 20  # 16 grey levels, far enough apart to survive the codecs


def numbered(number: int, width: int, height: int) -> np.ndarray:
    """A frame whose left half shows number % 16 and whose right half shows number // 16, as greys."""
    frame = np.empty((height, width, 3), dtype=np.uint8)
    frame[:, : width // 2] = DARKEST + STEP * (number % 16)
    frame[:, width // 2 :] = DARKEST + STEP * (number // 16 % 16)
    return frame


def numbers_of(frames: np.ndarray) -> list[int]:
    """The numbers that (T, H, W, 3) frames show; fails if a grey lies between two levels."""
    height, width = frames.shape[1:3]
    rows = slice(height // 4, 3 * height // 4)
    greys = [frames[:, rows, c : c + width // 4].mean(axis=(1, 2, 3)) for c in (width // 8, 5 * width // 8)]
    levels = [(grey - DARKEST) / STEP for grey in greys]
    for level in levels:
        assert np.abs(level - level.round()).max() < 0.4, level
    return (levels[0].round() + 16 * levels[1].round()).astype(int).tolist()


def make_video(
    path: Path,
    frames: int = 60,
    fps: int = 30,
    codec: str = "libx264",
    size: tuple[int, int] = (128, 96),
    gop: int = 12,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    times_ms: list[int] | None = None,
    rotation: int = 0,
    b_frames: int | None = None,
    pix_fmt: str = "yuv420p",
    first: int = 0,
) -> Path:
    """Frame i of the file shows the number `first` + i."""
    import av

    tick = Fraction(1, fps) if times_ms is None else Fraction(1, 1000)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=options or {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.gop_size = gop
        if codec not in ("libsvtav1", "libx264", "libx265"):  # those have a constant quality by default
            stream.bit_rate = 2_000_000
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if times_ms is not None:
            stream.codec_context.time_base = stream.time_base = tick
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(first + number, *size), format="rgb24")
            frame.pts = number if times_ms is None else times_ms[number]
            frame.time_base = tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
