"""What is counted from shapes is what torch counts while the real model runs, and what the paper's shapes allow."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stts_lightning.bench.case import LAYERS, Shape, make_batch
from stts_lightning.bench.flops import forward_flops
from stts_lightning.config import PruneConfig
from stts_lightning.molmo2.patch import apply_stts
from stts_lightning.molmo2.shapes import random_molmo2

CPU = torch.device("cpu")


def counted(model, batch):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch)
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def small():
    # eager: torch counts the matrix products of attention, but not the CPU's fused kernel
    return random_molmo2("small", dtype=torch.float32, device=CPU, attention="eager").eval()


@pytest.mark.parametrize("videos, frames", [(1, 3), (2, 5)])
def test_the_stock_model_s_flops_are_counted_exactly(small, videos, frames):
    shape = Shape("small", videos, frames)
    batch = make_batch(shape, small.config, CPU, training=False, ours=False)
    assert forward_flops(small.config, shape, 0, LAYERS["small"]).total == counted(small, batch)


@pytest.mark.parametrize("percent", [25, 50])
def test_the_pruned_model_s_flops_are_counted_exactly(small, percent):
    """But for attention in the pruned blocks, which runs in the fused kernel that torch does not count."""
    shape = Shape("small", 2, 4)
    batch = make_batch(shape, small.config, CPU, training=False, ours=True)
    handle = apply_stts(small, PruneConfig(percent=percent, layer=LAYERS["small"]))
    handle.model.model.vision_tower.token_scorer = Fixed(torch.rand(8, 16))
    found = counted(small, batch)
    handle.remove()
    expected = forward_flops(small.config, shape, percent, LAYERS["small"]).total
    vision, kept = small.config.vision_config, 1 - percent / 100
    patches, pruned_blocks = 144, vision.num_hidden_layers - LAYERS["small"] - 2
    uncounted = pruned_blocks * 8 * patches * kept * 4 * patches * kept * vision.hidden_size
    assert found == expected - uncounted


class Fixed(torch.nn.Module):
    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, x_TND, windows):
        from stts_lightning.prune.types import Scores

        return Scores(self.scores)


@pytest.mark.parametrize("videos, frames, allowed", [(2, 64, 1.71), (1, 256, 2.15)])
def test_what_half_the_tokens_allow_at_the_real_shapes(videos, frames, allowed):
    meta = torch.device("meta")
    config = random_molmo2("4b", dtype=torch.bfloat16, device=meta, attention="sdpa").config
    shape = Shape("4b", videos, frames)
    whole, half = (forward_flops(config, shape, percent, 3).total for percent in (0, 50))
    assert whole / half == pytest.approx(allowed, abs=0.005)


@pytest.mark.parametrize("videos, frames, tokens", [(2, 64, 15670), (1, 256, 25307)])
def test_prompts_at_the_real_size_are_table_6_s(videos, frames, tokens):
    assert videos * len(Shape("4b", videos, frames).video_tokens(81)) == tokens


def test_pairs_that_see_each_other_are_fewer_than_all(small):
    shape = Shape("small", 1, 4)
    kinds = shape.video_tokens(16)
    visible = sum(
        key <= query or (kinds[key] > 0 and kinds[query] > 0)
        for query in range(len(kinds))
        for key in range(len(kinds))
    )
    dense, needed = (forward_flops(small.config, shape, 0, 0, dense=dense).language for dense in (True, False))
    text = small.config.text_config
    per_pair = 4 * text.num_hidden_layers * text.num_attention_heads * text.head_dim
    assert dense - needed == (len(kinds) ** 2 - visible) * per_pair
