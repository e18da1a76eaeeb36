"""From a video file to what the model takes: times, frames, patches. Importing this loads no decoder and no torch."""

from stts_lightning.video.reader import ClipReader
from stts_lightning.video.sample import format_time, frames_at, sample_times
from stts_lightning.video.types import Clip, VideoError

__all__ = ["Clip", "ClipReader", "VideoError", "format_time", "frames_at", "sample_times"]
