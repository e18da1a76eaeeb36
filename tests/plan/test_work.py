"""What a step looks at is what the packer, the collator and pruning make of it."""

import pytest
import torch

from stts_lightning.bench.case import Shape
from stts_lightning.bench.flops import forward_flops
from stts_lightning.config import load_config
from stts_lightning.data.packing import Packer, Size
from stts_lightning.molmo2.shapes import random_molmo2
from stts_lightning.plan.work import load_of, work_of

H100 = ["backbone=molmo2_4b", "trainer=h100x8_zero2"]


@pytest.fixture(scope="module")
def four_b():
    return random_molmo2("4b", dtype=torch.bfloat16, device=torch.device("meta"), attention="sdpa").config


def test_the_paper_s_sequences_hold_two_clips_of_table_6():
    load = load_of(load_config(H100), 50.0)
    assert (load.samples, load.tokens, load.samples * load.prompt) == (2, 10486, 15670)
    assert (load.given, load.frames) == (16384, 2 * 2 * 64)


@pytest.mark.parametrize(
    "count, percent, max_frames, frames",
    [("unpruned", 50.0, 128, 64), ("kept", 50.0, 256, 64), ("kept", 30.0, 512, 32), ("unpruned", 50.0, 512, 16)],
)
def test_as_many_clips_share_a_sequence_as_the_packer_takes(count, percent, max_frames, frames):
    packing = [f"data.packing.count={count}", f"data.packing.max_frames={max_frames}", f"video.max_frames={frames}"]
    load = load_of(load_config([*H100, *packing]), percent)
    counted = load.tokens // load.samples if count == "kept" else load.prompt
    packer = Packer(16384, max_frames)
    packed = [packer.offer(i, Size(counted, frames)) for i in range(49)][-1]
    assert len(packed) == load.samples


def test_a_packed_sequence_is_as_long_after_pruning_as_before():
    """`shorten` fills it up again: what pruning saves there is room, which `count=kept` gives to other clips."""
    config = load_config(H100)
    assert load_of(config, 0.0).length == load_of(config, 50.0).length == 16384
    kept = load_config([*H100, "data.packing.count=kept", "data.packing.max_frames=256"])
    assert (load_of(kept, 0.0).samples, load_of(kept, 50.0).samples) == (2, 3)
    alone = load_config([*H100, "data.packing.enabled=false"])
    assert (load_of(alone, 0.0).length, load_of(alone, 50.0).length) == (7835, 7835 - 64 * 81 // 2)


def test_a_clip_that_fits_no_sequence_is_an_error():
    with pytest.raises(ValueError, match=r"video.max_frames=200 frames takes 20211 tokens.*max_tokens=16384"):
        load_of(load_config([*H100, "video.max_frames=200", "data.packing.max_frames=256"]), 0.0)
    with pytest.raises(ValueError, match="max_frames=128"):
        load_of(load_config([*H100, "video.max_frames=130"]), 50.0)


def test_operations_are_the_clips_and_the_padding_three_times_and_what_runs_again_once(four_b):
    config = load_config(H100)
    load = load_of(config, 50.0)
    work = work_of(config, four_b, load)
    text = four_b.text_config
    weights = text.num_hidden_layers * text.hidden_size * (2 * 32 * 128 + 2 * 8 * 128 + 3 * text.intermediate_size)
    assert work.padding == 3 * 2 * (16384 - 10486) * 2 * weights

    clips = forward_flops(four_b, Shape("4b", 4, 64), 50.0, 3, labels=load.labels // 2, dense=False)
    assert work.model == pytest.approx(3 * clips.total + work.padding)
    # what a block ends with is not run again: 5 whole blocks of 729 patches, 20 of half of them, 36 of the sequence
    vit_ends = 2 * 1152 * 4304 * 256 * 729 * (5 + 20 * 0.5)
    ends = 2 * 2560 * 9728 * 36 * 2 * 16384
    assert work.recomputed == pytest.approx(clips.vision - vit_ends + clips.language + work.padding / 3 - ends)
    vision = work_of(load_config([*H100, "backbone.activation_checkpointing=vision"]), four_b, load)
    assert vision.recomputed == pytest.approx(clips.vision - vit_ends)
    assert work_of(load_config([*H100, "backbone.activation_checkpointing=none"]), four_b, load).recomputed == 0
