"""The shortened prompt, and the paper's Table 6 to the token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from slow_reference import shorten_by_hand

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig
from stts_lightning.molmo2 import prompt
from stts_lightning.molmo2.prompt import IGNORE, SAMPLE_STRIDE, SHARED_PREFIX, count_prompts, dropped_by_row
from stts_lightning.prune.budget import prune_count
from stts_lightning.prune.select import select

PLACEHOLDER = 9

# Frames a video, videos, k % -> tokens a training instance (Table 6), both videos together.
TABLE_6 = [
    (64, 2, 0, 15670), (64, 2, 30, 12560), (64, 2, 40, 11524), (64, 2, 50, 10486),
    (256, 1, 0, 25307), (256, 1, 30, 19087), (256, 1, 40, 17013), (256, 1, 50, 14939),
]  # fmt: skip
TEXT_TOKENS, WINDOWS = 2048, 81


def table_6_ids(frames, start, placeholder, end):
    """One prompt: a timestamp of one token a character before each frame, every 32.5 s, and 2,048 text tokens."""
    ids = []
    for i in range(frames):
        timestamp = f"{' ' if i else ''}{32.5 * i:.1f} "
        ids += [ord(character) for character in timestamp] + [start] + [placeholder] * WINDOWS + [end]
    return ids + [150] * TEXT_TOKENS


def shorten(ids, keep, placeholder, attention_mask=None, **how):
    """With what the host would know counted from the prompts, row by row."""
    flags, dropped = iter(keep.tolist()), []
    for row in ids.tolist():
        dropped.append(sum(not next(flags) for token in row if token == placeholder))
    counts = count_prompts(ids, attention_mask, placeholder)
    return prompt.shorten(ids, keep, placeholder, counts, dropped, attention_mask=attention_mask, **how)


@pytest.mark.parametrize("frames, videos, percent, tokens", TABLE_6)
def test_token_counts_equal_table_6(frames, videos, percent, tokens):
    ids = torch.tensor([table_6_ids(frames, 201, 202, 203)] * videos)
    scores = torch.rand(videos * frames, WINDOWS, generator=torch.Generator().manual_seed(percent))
    selection = select(scores, [frames] * videos, percent)
    short = shorten(ids, selection.keep_TW.flatten(), 202)
    assert sum(short.lengths) == tokens
    assert short.input_ids.shape == (videos, tokens // videos)
    assert ids.numel() - videos * prune_count(percent, frames, WINDOWS) == tokens
    for token in (201, 203, ord(".")):  # markers and timestamps stay, also of frames that lost every window
        assert int((short.input_ids == token).sum()) == videos * frames


def test_the_real_model_sees_table_6_s_tokens(build_model, build_table):
    frames, videos, percent, tokens = 64, 2, 50, 10486
    side = 27  # patches, of one pixel each; everything that no count depends on is as small as it gets
    model = build_model(
        side, patch=1, vit_hidden=8, vit_heads=1, vit_mlp=8, vit_layers=3, feature_layers=[2, 1],
        text_hidden=8, text_heads=1, text_mlp=8, text_layers=1, adapter_mlp=8,
    )  # fmt: skip
    config = model.config
    row = table_6_ids(frames, config.frame_start_token_id, config.image_token_id, config.frame_end_token_id)
    pixels = torch.rand(videos * frames, side * side, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    one = build_table(1, side)
    table = torch.cat([one + t * side * side for t in range(videos * frames)])  # 9 x 9 whole windows
    apply_stts(model, PruneConfig(percent=percent, layer=0))
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor([row] * videos), pixel_values_videos=pixels, video_token_pooling=table,
            video_grids=torch.tensor([[frames, 9, 9]] * videos), logits_to_keep=1,
        )  # fmt: skip
    assert sum(out.pruning.prompt_lengths) == tokens
    assert out.pruning.kept_tokens == [64 * 81 - 2592] * 2
    assert out.pruning.packed_rows < 128


@st.composite
def prompts(draw):
    """Padded prompts with placeholders anywhere, and a flag for each."""
    rows = draw(
        st.lists(st.lists(st.sampled_from([1, 2, PLACEHOLDER]), min_size=1, max_size=8), min_size=1, max_size=3)
    )
    flags = [draw(st.booleans()) for row in rows for token in row if token == PLACEHOLDER]
    return rows, torch.tensor(flags, dtype=torch.bool)


@given(prompts(), st.booleans(), st.sampled_from(["renumbered", "original"]))
def test_shortens_as_a_loop_over_tokens(prompt, left, positions):
    rows, keep = prompt
    longest = max(map(len, rows))
    gaps = [[0] * (longest - len(row)) for row in rows]
    inputs = {
        "input_ids": torch.tensor([g + row if left else row + g for g, row in zip(gaps, rows, strict=True)]),
        "attention_mask": torch.tensor(
            [g + [1] * len(row) if left else [1] * len(row) + g for g, row in zip(gaps, rows, strict=True)]
        ),
    }
    inputs["labels"] = torch.where(inputs["attention_mask"] > 0, torch.arange(longest) + 50, IGNORE)
    expected = shorten_by_hand(inputs, [keep], PLACEHOLDER, positions, left)
    short = shorten(
        inputs["input_ids"],
        keep,
        PLACEHOLDER,
        attention_mask=inputs["attention_mask"],
        positions=positions,
        pad_left=left,
    )
    for name in ("input_ids", "attention_mask", "position_ids"):
        assert torch.equal(getattr(short, name), expected[name]), name
    assert torch.equal(short.index_BL, expected["index"])
    assert torch.equal(short.follow(inputs["labels"], IGNORE), expected["labels"])
    assert short.lengths == expected["attention_mask"].sum(1).tolist()


def test_padding_stays_on_its_side():
    keep = torch.tensor([False, True, True, True, False, False])  # two of the first row, four of the second
    left = torch.tensor([[0, 0, 1, 9, 9, 2], [1, 9, 9, 9, 9, 2]])
    right = torch.tensor([[1, 9, 9, 2, 0, 0], [1, 9, 9, 9, 9, 2]])
    short = shorten(left, keep, PLACEHOLDER, attention_mask=(left > 0).long(), pad_id=5)
    assert short.input_ids.tolist() == [[5, 1, 9, 2], [1, 9, 9, 2]]
    short = shorten(right, keep, PLACEHOLDER, attention_mask=(right > 0).long(), pad_id=5)
    assert short.input_ids.tolist() == [[1, 9, 2, 5], [1, 9, 9, 2]]


def test_nothing_to_follow_stays_nothing():
    assert shorten(torch.tensor([[1, 9]]), torch.tensor([False]), PLACEHOLDER).follow(None, 0) is None


@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_positions_restart_with_each_sample(positions):
    # Two samples in a row; the second one's positions start at 0 and must not feel the first one's gaps.
    ids = torch.tensor([[1, 9, 9, 9, 2, 1, 9, 9, 2, 2]])
    given = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]])
    sub = torch.tensor([[SHARED_PREFIX] * 5 + [SHARED_PREFIX + SAMPLE_STRIDE] * 5])
    keep = torch.tensor([False, True, False, False, True])
    short = shorten(ids, keep, PLACEHOLDER, position_ids=given, subsegment_ids=sub, positions=positions)
    expected = {"renumbered": [0, 1, 2, 0, 1, 2, 3], "original": [0, 2, 4, 0, 2, 3, 4]}
    assert short.position_ids.tolist() == [expected[positions]]


def test_branches_go_on_where_the_shortened_prefix_ends():
    # Prefix of 5 tokens with 3 placeholders, of which 2 leave; both branches of 2 tokens start at its end.
    ids = torch.tensor([[1, 9, 9, 9, 2, 3, 3, 4, 4]])
    given = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 5, 6]])
    sub = torch.tensor([[SHARED_PREFIX] * 5 + [0, 0, 1, 1]])
    short = shorten(ids, torch.tensor([False, True, False]), PLACEHOLDER, position_ids=given, subsegment_ids=sub)
    assert short.position_ids.tolist() == [[0, 1, 2, 3, 4, 3, 4]]


@pytest.mark.parametrize(
    "placeholders, windows, kept, dropped",
    [
        ([3], [3], [1], [2]),
        ([4, 3], [4, 3], [4, 1], [0, 2]),
        ([0, 7, 0], [4, 3], [1, 1], [0, 5, 0]),
        ([0], [], [], [0]),
    ],
)
def test_what_leaves_a_row_is_what_its_videos_lost(placeholders, windows, kept, dropped):
    assert dropped_by_row(placeholders, windows, kept) == dropped


@pytest.mark.parametrize("placeholders, windows", [([3], [2]), ([3], [4]), ([2, 2], [4]), ([3], [])])
def test_a_mismatch_of_placeholders_and_windows_is_named(placeholders, windows):
    with pytest.raises(ValueError, match=rf"{sum(placeholders)} placeholders .* {sum(windows)} windows"):
        dropped_by_row(placeholders, windows, windows)


def test_the_model_names_a_mismatch_of_placeholders_and_windows(model, build_inputs):
    inputs = build_inputs([4])
    inputs["input_ids"][0, -1] = model.config.image_token_id
    apply_stts(model, PruneConfig(percent=50, layer=0))
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=r"37 placeholders .* 36 windows"):
            call(**inputs)
