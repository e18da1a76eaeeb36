from __future__ import annotations

from stts_lightning.data.sampler import StepSampler


def test_every_epoch_holds_each_item_once() -> None:
    order = [i for batch in StepSampler(num_items=6, batch_size=4, num_batches=6, seed=3) for i in batch]
    assert [sorted(order[start : start + 6]) for start in (0, 6, 12, 18)] == [list(range(6))] * 4
    assert order[:6] != order[6:12]


def test_resumed_order_is_the_rest_of_the_whole_order() -> None:
    whole = list(StepSampler(num_items=7, batch_size=3, num_batches=10, seed=1))
    rest = list(StepSampler(num_items=7, batch_size=3, num_batches=10, seed=1, start_batch=4))
    assert rest == whole[4:]


def test_seeds_differ() -> None:
    assert list(StepSampler(50, 5, 3, seed=0)) != list(StepSampler(50, 5, 3, seed=1))


def test_processes_share_the_items_out() -> None:
    parts = [list(StepSampler(8, 2, 2, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    assert sorted(i for part in parts for batch in part for i in batch) == list(range(8))
