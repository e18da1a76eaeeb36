from __future__ import annotations

from stts_lightning.data.sampler import StepSampler


def test_every_epoch_holds_each_item_once() -> None:
    order = [i for batch in StepSampler(num_items=6, batch_size=4, num_batches=6, seed=3) for i in batch]
    assert [sorted(order[start : start + 6]) for start in (0, 6, 12, 18)] == [list(range(6))] * 4
    assert order[:6] != order[6:12]


def test_resumed_order_is_the_rest_of_the_whole_order() -> None:
    whole = list(StepSampler(num_items=7, batch_size=3, num_batches=10, seed=1))
    rest = list(StepSampler(num_items=7, batch_size=3, num_batches=10, seed=1, done_batches=4))
    assert rest == whole[4:]


def test_seeds_differ() -> None:
    assert list(StepSampler(50, 5, 3, seed=0)) != list(StepSampler(50, 5, 3, seed=1))


def test_processes_share_the_items_out() -> None:
    parts = [list(StepSampler(8, 2, 2, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    assert sorted(i for part in parts for batch in part for i in batch) == list(range(8))


def test_warmup_goes_before_the_order_that_all_methods_share() -> None:
    without = list(StepSampler(num_items=7, batch_size=3, num_batches=5, seed=1))
    with_warmup = list(StepSampler(num_items=7, batch_size=3, num_batches=5, seed=1, warmup_batches=4))
    assert len(with_warmup) == 9 and with_warmup[4:] == without
    assert all(0 <= i < 7 for batch in with_warmup for i in batch)


def test_resumed_run_knows_its_whole_length() -> None:
    sampler = StepSampler(num_items=7, batch_size=3, num_batches=5, seed=1, warmup_batches=2, done_batches=4)
    assert len(sampler) == 7 and len(list(sampler)) == 3
