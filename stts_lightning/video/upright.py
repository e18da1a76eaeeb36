"""How large the pictures of a video are, for models that keep the aspect."""

import os
from typing import NamedTuple

from stts_lightning.video.clip import video_error
from stts_lightning.video.container import best_stream


class UprightSize(NamedTuple):
    """Pixels, after turning as the metadata say."""

    height: int
    width: int


def upright_size(path: str | os.PathLike[str]) -> UprightSize:
    """The size of the first picture. Only for files that were read before: it decodes in this very process.

    Raises VideoError if nothing can be decoded.
    """
    import av

    path = os.fspath(path)
    with av.open(path, metadata_errors="ignore") as container:
        stream = best_stream(container)
        for frame in container.decode(stream) if stream is not None else ():
            sides = (frame.height, frame.width)
            return UprightSize(*(sides[::-1] if round(frame.rotation / 90) % 2 else sides))
    raise video_error(path, "no_frames", "no picture of the video can be decoded")
