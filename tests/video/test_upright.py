from __future__ import annotations

import numpy as np
import pytest

from stts_lightning.video.clip import VideoError
from stts_lightning.video.upright import upright_size


@pytest.mark.parametrize(("rotation", "wanted"), [(0, (96, 128)), (90, (128, 96)), (180, (96, 128))])
def test_size_is_that_of_the_picture_turned_upright(video, rotation, wanted):
    path = video(f"turned{rotation}.mp4", frames=4, size=(128, 96), rotation=rotation)
    assert upright_size(path) == wanted


def test_a_file_without_pictures_is_an_error(tmp_path):
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        for at in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 1024 * at
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(VideoError, match="no picture"):
        upright_size(path)
