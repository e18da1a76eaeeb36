"""Batches of one kind, in an order that neither the other kind nor a resume changes."""

from __future__ import annotations

import pytest

from stts_lightning.data.sampler import KindSampler, StepSampler

VIDEOS, IMAGES = 7, 5


def batches(share: float = 0.3, **how: int) -> list[list[int]]:
    return list(KindSampler(VIDEOS, IMAGES, share, batch_size=3, num_batches=20, seed=1, **how))


def is_image(batch: list[int]) -> bool:
    kinds = {item >= VIDEOS for item in batch}
    assert len(kinds) == 1, "videos and images in one batch"
    return kinds.pop()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_share_of_the_batches_is_of_images_evenly_spread(share: float) -> None:
    kinds = [is_image(batch) for batch in batches(share)]
    assert len(kinds) == 20 and sum(kinds) == 20 * share
    for end in range(21):
        assert abs(sum(kinds[:end]) - share * end) < 1


def test_each_kind_keeps_its_own_order() -> None:
    made = batches(0.3)
    videos = [batch for batch in made if not is_image(batch)]
    images = [[item - VIDEOS for item in batch] for batch in made if is_image(batch)]
    assert videos == list(StepSampler(VIDEOS, 3, 14, seed=1))
    assert images == list(StepSampler(IMAGES, 3, 6, seed=1))


def test_warmup_sees_videos_alone_and_shifts_nothing() -> None:
    warm = batches(0.5, warmup_batches=4)
    assert not any(map(is_image, warm[:4])) and warm[4:] == batches(0.5)


@pytest.mark.parametrize("done", [0, 1, 4, 5, 11, 23])
def test_resume_takes_up_what_was_left(done: int) -> None:
    whole = batches(0.3, warmup_batches=4)
    assert batches(0.3, warmup_batches=4, done_batches=done) == whole[done:]


def test_ranks_are_at_the_same_kind_and_share_the_items_out() -> None:
    one, other = (batches(0.3, rank=rank, world_size=2) for rank in (0, 1))
    assert [is_image(batch) for batch in one] == [is_image(batch) for batch in other]
    first = [batch for pair in zip(one, other, strict=True) for batch in pair if not is_image(batch)][:2]
    assert len({*first[0], *first[1]}) == 6  # of seven videos
