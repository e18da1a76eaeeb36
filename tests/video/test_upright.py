from __future__ import annotations

import pytest

from stts_lightning.video.clip import VideoError
from stts_lightning.video.upright import upright_size


@pytest.mark.parametrize(("rotation", "wanted"), [(0, (96, 128)), (90, (128, 96)), (180, (96, 128))])
def test_size_is_that_of_the_picture_turned_upright(video, rotation, wanted):
    path = video(f"turned{rotation}.mp4", frames=4, size=(128, 96), rotation=rotation)
    assert upright_size(path) == wanted


def test_a_file_without_pictures_is_an_error(sound):
    with pytest.raises(VideoError, match="no picture"):
        upright_size(sound)
