"""From a video file to what the model takes: times, frames, patches. No decoder, no torch at import."""

from stts_lightning.video.clip import Clip, VideoError
from stts_lightning.video.reader import ClipReader
from stts_lightning.video.sample import format_time, frames_at, sample_times

__all__ = ["Clip", "ClipReader", "VideoError", "format_time", "frames_at", "sample_times"]
