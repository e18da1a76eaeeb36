"""Scorers that are taught, the truth, and the stronger heuristics: each against its rule, written out."""

import math

import pytest
import torch

from stts_lightning.prune.methods.distill import DistillScorer
from stts_lightning.prune.methods.saliency import SaliencyScorer
from stts_lightning.prune.registry import Host, build_scorer
from stts_lightning.prune.select import select
from stts_lightning.prune.types import Windows

DIM, FRAMES = 8, [4, 2]
HOST = Host(DIM, 2)


def videos(seed=0, frames=FRAMES, side=2, patches=3):
    """Features (T, N, D) and their windows: side x side a frame, of ``patches`` patches each."""
    per_frame = side * side
    table = torch.arange(sum(frames) * per_frame * patches).view(-1, patches)
    windows = Windows(table, list(frames), per_frame, side, side, 50.0)
    x = torch.randn(sum(frames), per_frame * patches, DIM, generator=torch.Generator().manual_seed(seed))
    return x, windows


def pooled(x, windows):
    """[t][w] the mean over the patches of a window."""
    flat = x.flatten(0, 1)
    means = [flat[row].mean(0) for row in windows.table_MP.tolist()]
    return [means[i : i + windows.windows_per_frame] for i in range(0, len(means), windows.windows_per_frame)]


def test_l2_heuristic_is_the_distance_to_the_frame_before():
    x, windows = videos()
    means, found = pooled(x, windows), build_scorer("heuristic_l2", HOST)(x, windows).scores_TW
    for t in (1, 2, 3, 5):  # 0 and 4 are first frames
        for w in range(windows.windows_per_frame):
            assert found[t, w].item() == pytest.approx(math.dist(means[t][w], means[t - 1][w]), rel=1e-5)


def test_median_heuristic_is_one_minus_the_cosine_to_the_videos_median():
    x, windows = videos(frames=[5, 3])
    means, found = pooled(x, windows), build_scorer("heuristic_median", HOST)(x, windows).scores_TW
    for start, end in ((0, 5), (5, 8)):
        for w in range(windows.windows_per_frame):
            columns = zip(*(means[t][w].tolist() for t in range(start, end)), strict=True)
            median = [sorted(column)[(end - start) // 2] for column in columns]
            for t in range(start, end):
                mine = means[t][w].tolist()
                dot = sum(a * b for a, b in zip(mine, median, strict=True))
                cosine = dot / math.hypot(*mine) / math.hypot(*median)
                assert found[t, w].item() == pytest.approx(1 - cosine, abs=1e-5)


@pytest.mark.parametrize("method", ["heuristic_l2", "heuristic_median"])
def test_heuristics_take_a_video_by_itself(method):
    (x, windows), scorer = videos(), build_scorer(method, HOST)
    alone, own = videos(frames=[2])[0], videos(frames=[2])[1]
    alone = x[4:]
    torch.testing.assert_close(scorer(alone, own).scores_TW[1:], scorer(x, windows).scores_TW[5:])


def test_oracle_keeps_what_matters_and_refuses_to_guess():
    x, windows = videos()
    relevant = torch.zeros(6, 4, dtype=torch.bool)
    relevant[1, 2] = relevant[3, 0] = relevant[5, 3] = True
    scores = build_scorer("oracle", HOST)(x, windows._replace(relevant_TW=relevant)).scores_TW
    keep = select(scores, FRAMES, 37.5).keep_TW  # 6 of 16 and 3 of 8 leave
    assert keep[relevant].all() and keep.sum() == 15
    with pytest.raises(ValueError, match="oracle needs the truth"):
        build_scorer("oracle", HOST)(x, windows)


def test_saliency_ranks_by_its_logits_and_adds_noise_in_training_alone():
    x, windows = videos()
    scorer = build_scorer("stts_saliency", HOST)
    scorer.eval()
    seen = scorer(x, windows)
    assert torch.equal(seen.scores_TW, seen.use_logits_TW) and seen.log_scores_TW is None and seen.aux_loss is None
    noisy = scorer.train()(x, windows)
    assert not torch.equal(noisy.scores_TW, seen.scores_TW) and torch.equal(noisy.use_logits_TW, seen.use_logits_TW)
    assert noisy.use_logits_TW.requires_grad and not noisy.scores_TW.requires_grad


def test_noise_is_gumbel_scaled_by_eta():
    """Its mean is Euler's constant and its standard deviation pi / sqrt(6), both times eta."""
    x, windows = videos(frames=[600])
    scorer = SaliencyScorer(HOST, noise=2.0).train()
    seen = scorer(x, windows)
    noise = (seen.scores_TW - seen.use_logits_TW).detach() / 2.0
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.1)
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.1)


def test_noise_falls_to_its_floor_over_its_share():
    scorer = SaliencyScorer(HOST, noise=1.0, noise_floor=0.2, noise_share=0.5)
    etas = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        scorer.set_progress(share)
        etas.append(scorer.eta)
    assert etas == pytest.approx([1.0, 0.6, 0.2, 0.2, 0.2])
    with pytest.raises(ValueError, match="noise_floor=2"):
        build_scorer("stts_saliency", HOST, {"noise_floor": 2})


def test_saliency_asks_nothing_of_the_features_that_it_reads():
    x, windows = videos()
    x.requires_grad_()
    scorer = SaliencyScorer(HOST, bias=True, with_aux_loss=True)
    seen = scorer(x, windows)
    (seen.use_logits_TW.sum() + seen.aux_loss + seen.log_scores_TW.sum()).backward()
    assert x.grad is None and all(p.grad is not None for p in scorer.mlp.parameters())


def test_warmup_of_the_taught_scorers_is_the_papers():
    x, windows = videos()
    paper = build_scorer("stts", HOST)
    for method in ("stts_saliency", "stts_distill"):
        scorer = build_scorer(method, HOST)
        scorer.load_state_dict(paper.state_dict())
        torch.testing.assert_close(scorer.warmup_loss(x, windows), paper(x, windows).aux_loss)
    assert build_scorer("stts_no_aux", HOST).warmup_loss is None


def test_taught_loss_is_the_cross_entropy_against_the_teachers_shares():
    x, windows = videos()
    scorer = DistillScorer(HOST)
    use = torch.rand(24, generator=torch.Generator().manual_seed(1))
    logits = scorer.score(x, windows)[0].flatten().tolist()
    expected = 0.0
    for counted in (range(4, 16), range(20, 24)):  # all windows but those of frame 0, by video
        total, top = sum(use[j].item() for j in counted), sum(math.exp(logits[j]) for j in counted)
        expected -= sum(use[j].item() / total * (logits[j] - math.log(top)) for j in counted) / 2
    assert scorer.taught_loss(x, windows, use).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="teacher='gradient'"):
        build_scorer("stts_distill", HOST, {"teacher": "gradient"})
