import math

import pytest
import torch
import torch.nn.functional as F

from stts_lightning.prune.methods.stts import STTSScorer, TokenPooler
from stts_lightning.prune.registry import Host, build_scorer
from stts_lightning.prune.types import Windows

DIM, HEADS, FRAMES = 8, 2, [3, 1, 2]


def make(build_table, side=6, frames=FRAMES, seed=0):
    across = -(-side // 3)
    windows = Windows(build_table(sum(frames), side), frames, across * across, across, across)
    x = torch.randn(sum(frames), side * side, DIM, generator=torch.Generator().manual_seed(seed))
    return x, windows


def scorer_of(preset, with_aux_loss=True):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        scorer = STTSScorer(Host(DIM, HEADS, preset), with_aux_loss)
        for parameter in scorer.parameters():  # biases start at 0, where a forgotten one would not show
            torch.nn.init.normal_(parameter, std=0.4)
    return scorer


def real_patches(x, windows, m):
    flat = x.flatten(0, 1)
    return torch.stack([flat[patch] for patch in windows.table_MP[m].tolist() if patch >= 0])


def slow_pool(pooler, patches):
    """One window, head by head: the mean of the patches asks, the patches answer."""
    query = pooler.wq.weight @ patches.mean(0) + pooler.wq.bias
    keys = patches @ pooler.wk.weight.T + pooler.wk.bias
    values = patches @ pooler.wv.weight.T + pooler.wv.bias
    size = DIM // HEADS
    heads = []
    for h in range(HEADS):
        part = slice(h * size, (h + 1) * size)
        weights = torch.softmax(keys[:, part] @ query[part] / math.sqrt(size), dim=0)
        heads.append(weights @ values[:, part])
    return pooler.wo.weight @ torch.cat(heads) + pooler.wo.bias


def slow_logit(mlp, pair, activation):
    for layer in (mlp.w1, mlp.w2):
        pair = activation(layer.weight @ pair + layer.bias)
    return (mlp.w3.weight @ pair + mlp.w3.bias)[0]


def slow_scores(scorer, x, windows, activation):
    """Pooled features [t][w] and logits [t][w], window by window."""
    pooled, logits, t = [], [], 0
    for frames in windows.frames_per_video:
        for i in range(frames):
            base = t * windows.windows_per_frame
            now = [
                slow_pool(scorer.patch_token_pooler, real_patches(x, windows, base + w))
                for w in range(windows.windows_per_frame)
            ]
            before = pooled[-1] if i else [torch.zeros(DIM)] * len(now)
            logits.append(
                [slow_logit(scorer.mlp, torch.cat([b, n]), activation) for b, n in zip(before, now, strict=True)]
            )
            pooled.append(now)
            t += 1
    return pooled, logits


def slow_aux_loss(scores, targets, frames_per_video, windows_per_frame, count_first_frame):
    """targets [t][w] are vectors; per video, then the mean over videos."""
    losses, start = [], 0
    for frames in frames_per_video:
        total = torch.zeros(())
        for t in range(start + 1, start + frames):
            for w in range(windows_per_frame):
                now, before = targets[t][w], targets[t - 1][w]
                cosine = (now * before).sum() / (now.norm() * before.norm())
                total = total + (scores[t, w] - (1 - cosine)) ** 2
        counted = frames if count_first_frame else max(frames - 1, 1)
        losses.append(total / (counted * windows_per_frame))
        start += frames
    return sum(losses) / len(losses)


@pytest.mark.parametrize("preset, activation", [("paper", F.gelu), ("released", F.silu)])
@pytest.mark.parametrize("side", [6, 5])  # at 5 windows hang over the edge
def test_scores_equal_a_loop_over_windows(build_table, preset, activation, side):
    x, windows = make(build_table, side)
    scorer = scorer_of(preset)
    scores = scorer(x, windows)
    _, logits = slow_scores(scorer, x, windows, activation)
    expected = torch.stack([torch.stack(row) for row in logits])
    torch.testing.assert_close(scores.scores_TW, 1 / (1 + torch.exp(-expected)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(scores.log_scores_TW, torch.log(torch.sigmoid(expected)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [6, 5])
def test_paper_auxiliary_loss_compares_mean_pooled_windows(build_table, side):
    x, windows = make(build_table, side)
    scores = scorer_of("paper")(x, windows)
    count = windows.windows_per_frame
    pooled = [[real_patches(x, windows, t * count + w).mean(0) for w in range(count)] for t in range(len(x))]
    expected = slow_aux_loss(scores.scores_TW, pooled, FRAMES, count, count_first_frame=True)
    torch.testing.assert_close(scores.aux_loss, expected, atol=1e-6, rtol=1e-5)


def test_released_auxiliary_loss_compares_whole_windows(build_table):
    x, windows = make(build_table)
    scores = scorer_of("released")(x, windows)
    flattened = [
        [real_patches(x, windows, t * windows.windows_per_frame + w).flatten() for w in range(4)] for t in range(len(x))
    ]
    expected = slow_aux_loss(scores.scores_TW, flattened, FRAMES, 4, count_first_frame=False)
    torch.testing.assert_close(scores.aux_loss, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("preset, through_target", [("paper", False), ("released", True)])
def test_only_the_released_target_passes_gradient(build_table, preset, through_target):
    x, windows = make(build_table)
    x.requires_grad_()
    scorer = scorer_of(preset)
    torch.nn.init.zeros_(scorer.mlp.w3.weight)  # the scores are now constant: what is left is the target's way
    scorer(x, windows).aux_loss.backward()
    assert bool((x.grad.abs() > 0).any()) == through_target


def test_no_auxiliary_loss_without_it(build_table):
    x, windows = make(build_table)
    with_loss, without = scorer_of("paper")(x, windows), scorer_of("paper", with_aux_loss=False)(x, windows)
    assert without.aux_loss is None and torch.equal(with_loss.scores_TW, without.scores_TW)


@pytest.mark.parametrize("preset, widths", [("paper", (1152, 576)), ("released", (4304, 4304))])
def test_shapes_at_the_width_of_molmo2(preset, widths):
    with torch.device("meta"):  # shapes alone: these are 30 million weights
        scorer = STTSScorer(Host(1152, 16, preset))
    first, second = widths
    expected = {f"patch_token_pooler.{name}.weight": (1152, 1152) for name in ("wq", "wk", "wv", "wo")}
    expected |= {f"patch_token_pooler.{name}.bias": (1152,) for name in ("wq", "wk", "wv", "wo")}
    expected |= {"mlp.w1.weight": (first, 2304), "mlp.w1.bias": (first,)}
    expected |= {"mlp.w2.weight": (second, first), "mlp.w2.bias": (second,)}
    expected |= {"mlp.w3.weight": (1, second), "mlp.w3.bias": (1,)}
    assert {name: tuple(weight.shape) for name, weight in scorer.state_dict().items()} == expected


def test_pooler_ignores_what_stands_in_overhanging_slots():
    pooler = TokenPooler(DIM, HEADS)
    x, valid = torch.randn(4, 9, DIM), torch.ones(4, 9, dtype=torch.bool)
    valid[:, 6:] = False
    masked = x * valid[..., None]
    for m in range(4):
        torch.testing.assert_close(pooler(masked, valid)[m], slow_pool(pooler, x[m, :6]), atol=1e-5, rtol=1e-5)


def test_heuristic_scores_are_the_change_of_the_mean(build_table):
    x, windows = make(build_table, side=5)
    scores = build_scorer("heuristic", Host(DIM, HEADS, "paper", 0))(x, windows)
    start, width = 0, windows.windows_per_frame
    for frames in FRAMES:
        for t in range(start + 1, start + frames):
            for w in range(width):
                now, before = (real_patches(x, windows, i * width + w).mean(0) for i in (t, t - 1))
                expected = 1 - float(F.cosine_similarity(now, before, dim=0))
                assert float(scores.scores_TW[t, w]) == pytest.approx(expected, abs=1e-5)
        start += frames
    assert scores.log_scores_TW is None and scores.aux_loss is None


def test_random_scores_are_new_in_training_and_fixed_in_evaluation(build_table):
    x, windows = make(build_table, frames=[3, 3])
    scorer = build_scorer("random", Host(DIM, HEADS, "paper", 7))
    state = torch.random.get_rng_state()
    first, second = scorer.eval()(x, windows).scores_TW, scorer(x, windows).scores_TW
    assert torch.equal(first, second) and torch.equal(first[:3], first[3:])
    assert torch.equal(torch.random.get_rng_state(), state)
    other = build_scorer("random", Host(DIM, HEADS, "paper", 8)).eval()(x, windows).scores_TW
    assert not torch.equal(first, other)
    scorer.train()
    assert not torch.equal(scorer(x, windows).scores_TW, scorer(x, windows).scores_TW)


def test_none_prefers_no_window(build_table):
    x, windows = make(build_table)
    assert len(build_scorer("none", Host(DIM, HEADS, "paper", 0))(x, windows).scores_TW.unique()) == 1


def test_weights_follow_from_the_seed_alone():
    state = torch.random.get_rng_state()
    first = build_scorer("stts", Host(DIM, HEADS, "paper", 3)).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    again = build_scorer("stts", Host(DIM, HEADS, "paper", 3)).state_dict()
    other = build_scorer("stts", Host(DIM, HEADS, "paper", 4)).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["mlp.w1.weight"], other["mlp.w1.weight"])


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="'tom'.*Did you mean 'tome'"):
        build_scorer("tom", Host(DIM, HEADS))
