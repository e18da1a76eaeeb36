"""Every method through the real model: the same budget, the same batch rules, and what each of them means."""

import pytest
import torch
import torch.nn.functional as F

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig, method_names
from stts_lightning.prune.budget import prune_count

PRUNING = sorted({*method_names()} - {"none", "text_only"})
VIDEO = ("pixel_values_videos", "video_token_pooling", "video_grids")


@pytest.fixture()
def build_inputs(build_inputs):
    """With a truth about every window beside them, which follows from the video alone: for `oracle`."""

    def build(*args, **kwargs):
        inputs = build_inputs(*args, **kwargs)
        pixels, table = inputs["pixel_values_videos"], inputs["video_token_pooling"]
        bright = pixels.flatten(0, 1)[table.clamp(min=0)].mean((1, 2)) > 0
        return inputs | {"video_relevance": bright.view(len(pixels), -1)}

    return build


def tokens_of(model, inputs):
    return model.model.get_video_features(**{name: inputs[name] for name in (*VIDEO, "video_relevance")})


@pytest.mark.parametrize("method", PRUNING)
@pytest.mark.parametrize("percent", [30, 50, 83])  # at the last, ToMe has to merge more than half at once
def test_all_methods_leave_the_language_model_the_same_number_of_tokens(model, build_inputs, method, percent):
    inputs = build_inputs([6, 4])
    lengths = inputs["attention_mask"].sum(1).tolist()
    apply_stts(model, PruneConfig(method=method, percent=percent, layer=0))
    pruning = model(**inputs).pruning
    gone = [prune_count(percent, frames, 9) for frames in (6, 4)]
    assert gone == {30: [16, 10], 50: [27, 18], 83: [44, 27]}[percent]
    assert pruning.kept_tokens == [54 - gone[0], 36 - gone[1]]
    assert [int(keep.sum()) for keep in pruning.keep] == pruning.kept_tokens
    assert pruning.prompt_lengths == [n - g for n, g in zip(lengths, gone, strict=True)]


@pytest.mark.parametrize("method", PRUNING)
def test_a_video_does_not_see_its_neighbours(model, build_inputs, method):
    apply_stts(model, PruneConfig(method=method, percent=50, layer=0))
    together = tokens_of(model, build_inputs([5, 3, 4])).pooler_output
    for i, frames in enumerate([5, 3, 4]):
        alone = tokens_of(model, build_inputs([frames], seeds=[i])).pooler_output[0]
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", PRUNING)
def test_every_part_of_the_model_learns(build_model, build_inputs, method):
    model = build_model().train()
    handle = apply_stts(model, PruneConfig(method=method, percent=50, layer=0))
    inputs = build_inputs([5, 3])
    labels = torch.where(inputs["mm_token_type_ids"] == 0, inputs["input_ids"], -100) * inputs["attention_mask"]
    out = model(**inputs, labels=labels)
    (out.loss + (0 if out.pruning.listwise is None else out.pruning.listwise.loss)).backward()
    last = model.model.vision_tower.layers[3].mlp.fc1.weight.grad
    first = model.model.vision_tower.patch_embedding.weight.grad
    assert last.abs().sum() > 0 and first.abs().sum() > 0
    if method == "stts_distill":
        return  # its scorer has a teacher, and nothing of the pruned pass
    for name, parameter in handle.scorer.named_parameters():
        # The last bias of the scorer moves all keys of a frame alike, and the softmax does not see that.
        assert parameter.grad is not None, name


@pytest.mark.parametrize("method", PRUNING)
def test_every_method_generates(model, build_inputs, method):
    inputs = build_inputs([4, 3], left=True)
    apply_stts(model, PruneConfig(method=method, percent=50, layer=0))
    out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert out.shape == (2, inputs["input_ids"].shape[1] + 3)


@pytest.mark.parametrize("method", ["fewer_frames", "post_vit_heuristic", "coarser_pooling", "tome"])
def test_nothing_to_remove_gives_the_stock_tokens(model, build_inputs, method):
    inputs = build_inputs([4, 3])
    stock = torch.cat(model.model.get_video_features(**{n: inputs[n] for n in VIDEO}).pooler_output)
    apply_stts(model, PruneConfig(method=method, percent=0.5, layer=0))  # less than one window
    torch.testing.assert_close(torch.cat(tokens_of(model, inputs).pooler_output), stock, rtol=0, atol=1e-5)


def test_fewer_frames_gives_the_stock_tokens_of_its_frames(model, build_inputs):
    inputs = build_inputs([8])
    stock = model.model.get_video_features(**{n: inputs[n] for n in VIDEO}).pooler_output[0].view(8, 9, -1)
    apply_stts(model, PruneConfig(method="fewer_frames", percent=50, layer=0))
    out = tokens_of(model, inputs)
    torch.testing.assert_close(out.pooler_output[0].view(4, 9, -1), stock[[0, 2, 5, 7]], rtol=0, atol=1e-5)


def test_post_vit_heuristic_drops_the_most_similar_of_the_stock_tokens(model, build_inputs):
    inputs = build_inputs([6])
    stock = model.model.get_video_features(**{n: inputs[n] for n in VIDEO}).pooler_output[0].view(6, 9, -1)
    apply_stts(model, PruneConfig(method="post_vit_heuristic", percent=50, layer=0))
    out = tokens_of(model, inputs)
    similarity = F.cosine_similarity(stock[1:], stock[:-1], dim=-1).flatten()
    kept = [True] * 9 + [bool(s <= similarity.sort().values[27 - 9 - 1]) for s in similarity]
    torch.testing.assert_close(out.pooler_output[0], stock.flatten(0, 1)[torch.tensor(kept)], rtol=0, atol=1e-5)


def test_coarser_pooling_is_the_stock_connector_on_larger_windows(model, build_inputs):
    inputs = build_inputs([4])
    apply_stts(model, PruneConfig(method="coarser_pooling", percent=55.6, layer=0))  # 4 of 9 windows a frame
    ours = tokens_of(model, inputs).pooler_output[0]
    from stts_lightning.molmo2.patch import PruneHandle

    PruneHandle(model).remove()
    # 9 x 9 patches in 2 x 2: bands of 4 and 5 rows, widths of 4 and 5.
    edges = [(0, 4), (4, 9)]
    table = [
        [t * 81 + y * 9 + x for y in range(*rows) for x in range(*columns)]
        for t in range(4)
        for rows in edges
        for columns in edges
    ]
    longest = max(map(len, table))
    table = torch.tensor([row + [-1] * (longest - len(row)) for row in table])
    given = {"pixel_values_videos": inputs["pixel_values_videos"], "video_token_pooling": table}
    stock = model.model.get_video_features(**given, video_grids=torch.tensor([[4, 2, 2]])).pooler_output[0]
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-5)


def test_the_running_reference_reads_the_input_embeddings(model, build_inputs):
    inputs = build_inputs([5])
    tower = model.model.vision_tower
    embedded = tower.patch_embedding(inputs["pixel_values_videos"]) + tower.positional_embedding
    pooled = F.normalize(embedded.flatten(0, 1)[inputs["video_token_pooling"]].mean(1).view(5, 9, -1), dim=-1)
    handle = apply_stts(model, PruneConfig(method="heuristic_reference", layer=0, options={"threshold": 0.0}))
    scores = handle.model(**inputs).pruning.scores[0]
    torch.testing.assert_close(scores[1], 1 - (pooled[1] * pooled[0]).sum(-1), rtol=0, atol=1e-5)  # frame 0 refers


def test_windows_that_are_alike_are_merged_without_a_trace(model, build_inputs):
    """A merged window weighs in attention as much as those that it stands for: with two of one kind and seven of
    another, of which some are merged, the tokens are those of the whole frame."""
    torch.nn.init.zeros_(model.model.vision_tower.positional_embedding)
    inputs = build_inputs([3])
    kinds = torch.rand(2, 3, 3, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1  # patches of a window differ
    kind_W = torch.tensor([1, 1, 0, 0, 0, 0, 0, 0, 0])
    frame = kinds[kind_W].view(3, 3, 3, 3, 48).transpose(1, 2).reshape(81, 48)
    inputs["pixel_values_videos"] = frame.expand(3, 81, 48)
    stock = model.model.get_video_features(**{n: inputs[n] for n in VIDEO}).pooler_output[0].view(3, 9, -1)
    apply_stts(model, PruneConfig(method="tome", percent=50, layer=0))
    out = tokens_of(model, inputs)
    keep_FW = out.pruning.keep[0]
    assert len({tuple(sizes.tolist()) for sizes in out.pruning.scores[0]}) > 1  # frames of 4 and of 5
    assert not keep_FW[:, 0].any() and keep_FW[:, 1].all() and (out.pruning.scores[0][:, 1] == 2).all()
    torch.testing.assert_close(out.pooler_output[0], stock[keep_FW], rtol=0, atol=1e-5)
    assert out.pruning.scores[0].sum(1).tolist() == [9, 9, 9]


@pytest.mark.parametrize("method", ["tome", "coarser_pooling"])
def test_windows_that_hang_over_are_refused_by_name(build_model, build_inputs, method):
    model = build_model(8)
    apply_stts(model, PruneConfig(method=method, percent=50, layer=0))
    with pytest.raises(ValueError, match="whole windows"):
        model(**build_inputs([3], side=8))


def test_merging_leaves_one_window_a_frame(build_model, build_inputs):
    apply_stts(model := build_model(3), PruneConfig(method="tome", percent=50, layer=0))
    with pytest.raises(ValueError, match="fewer vision tokens than frames"):
        model(**build_inputs([4], side=3))
