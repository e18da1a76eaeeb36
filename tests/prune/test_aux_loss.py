import pytest
import torch

from stts_lightning.prune.aux_loss import auxiliary_loss
from stts_lightning.prune.similarity import temporal_change
from stts_lightning.prune.windows import is_first_frame

FRAMES = [4, 2, 1]


def test_change_is_one_minus_cosine_with_the_previous_frame():
    x = torch.randn(sum(FRAMES), 3, 6)
    change = temporal_change(x, is_first_frame(FRAMES, torch.device("cpu")))
    start = 0
    for frames in FRAMES:
        for t in range(start, start + frames):
            for w in range(3):
                cosine = torch.dot(x[t, w], x[t - 1, w]) / (x[t, w].norm() * x[t - 1, w].norm())
                expected = 1.0 if t == start else 1 - float(cosine)
                assert float(change[t, w]) == pytest.approx(expected, abs=1e-6)
        start += frames


@pytest.mark.parametrize("count_first_frame", [True, False])
def test_loss_is_the_mean_over_videos_of_the_squared_distance(count_first_frame):
    scores, change = torch.rand(sum(FRAMES), 5), torch.rand(sum(FRAMES), 5) * 2
    losses, start = [], 0
    for frames in FRAMES:
        total = 0.0
        for t in range(start + 1, start + frames):
            for w in range(5):
                total += (float(scores[t, w]) - float(change[t, w])) ** 2
        windows = 5 * frames if count_first_frame else 5 * (frames - 1)
        losses.append(total / windows if windows else 0.0)  # the released code has no loss for a lone frame
        start += frames
    ours = auxiliary_loss(scores, change, FRAMES, count_first_frame)
    assert float(ours) == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_frame_0_gets_no_gradient():
    scores = torch.rand(sum(FRAMES), 5, requires_grad=True)
    auxiliary_loss(scores, torch.zeros(sum(FRAMES), 5), FRAMES, True).backward()
    assert (scores.grad.abs().sum(1) == 0).tolist() == [True, False, False, False, True, False, True]


def test_the_paper_divides_by_all_windows():
    # Section 3.4: w^2 / (T N) times the sum, and frame 0 adds nothing: 3 of 4 frames with distance 1.
    loss = auxiliary_loss(torch.zeros(4, 9), torch.ones(4, 9), [4], count_first_frame=True)
    assert float(loss) == pytest.approx(3 / 4)
