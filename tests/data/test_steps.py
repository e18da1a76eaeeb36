"""Micro-batches of a step know what the others weigh."""

from stts_lightning.data.steps import StepBatches


class Loader(list):
    """A stand-in for the DataLoader: batches in order."""


def test_each_batch_of_a_step_gets_the_weight_of_all_and_keeps_its_place():
    loader = Loader({"loss_weight": float(w), "num_videos": 7 - w, "name": w} for w in (1, 2, 3, 4, 5, 6))
    for accumulate, weights in ((1, [1, 2, 3, 4, 5, 6]), (2, [3, 3, 7, 7, 11, 11]), (3, [6, 6, 6, 15, 15, 15])):
        batches = StepBatches(loader, accumulate)
        assert len(batches) == 6 and [batch["name"] for batch in batches] == [1, 2, 3, 4, 5, 6]
        videos = [7 * accumulate - weight for weight in weights]
        assert [batch["step_totals"] for batch in batches] == [[w, v] for w, v in zip(weights, videos, strict=True)]
    assert "step_totals" not in loader[0]
