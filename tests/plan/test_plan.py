"""A whole plan: the right model, every kind of machine, a verdict, and the command."""

import json
from dataclasses import replace

import pytest
from torch.utils.flop_counter import FlopCounterMode

from stts_lightning.bench.case import Shape
from stts_lightning.bench.flops import forward_flops, language_flops_per_token
from stts_lightning.cli import main
from stts_lightning.config import CONF_DIR, load_config
from stts_lightning.molmo2.shadow import as_on_a_gpu
from stts_lightning.plan import activations
from stts_lightning.plan.activations import make_batch, parameters_of, shadow_module
from stts_lightning.plan.main import GIB, Machine, plan, remedy, trainer_names
from stts_lightning.plan.state import State
from stts_lightning.plan.work import load_of, work_of
from stts_lightning.plan.write import page

TRAINERS = sorted(path.stem for path in (CONF_DIR / "trainer").glob("*.yaml"))
# Metadata of model.safetensors.index.json of allenai/Molmo2-4B: "total_parameters".
PUBLISHED = 4_850_869_200
TINY = ["backbone=tiny", "video.max_frames=4", "data.packing.max_tokens=4352", "data.packing.max_frames=8"]


@pytest.fixture(scope="module", autouse=True)
def quick_tokenizer(tiny_tokenizer):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(activations, "tiny_tokenizer", lambda: tiny_tokenizer)
        yield


def test_molmo2_4b_has_as_many_parameters_as_its_checkpoint():
    found = parameters_of(shadow_module(load_config(["backbone=molmo2_4b"])))
    assert found.language + found.vision == PUBLISHED

    d, mlp, heads, key_heads = 2560, 9728, 32 * 128, 8 * 128
    block = d * (2 * heads + 2 * key_heads) + 3 * d * mlp + 2 * d + 2 * 128  # its norms, and those of q and k
    assert found.language == 36 * block + 2 * 151936 * d + 128 * d + d  # 128 tokens that the head does not give
    v, inner = 1152, 4304
    vit_block = 4 * (v * v + v) + 2 * v * inner + inner + v + 4 * v
    vit = 25 * vit_block + (14 * 14 * 3 + 1) * v + 27 * 27 * v
    connector = 3 * (2 * v * v + v) + v * v + v + 2 * v * mlp + mlp * d
    assert found.vision == vit + connector
    pooler, scorer = 4 * (v * v + v), (2 * v + 1) * v + (v + 1) * v // 2 + v // 2 + 1
    assert found.scorer == pooler + scorer
    assert (found.block, found.outside) == (block, found.total - 36 * block - 25 * vit_block)


@pytest.mark.parametrize("name", TRAINERS)
def test_every_trainer_file_can_be_planned(name):
    config = load_config([f"trainer={name}", *TINY])
    made = plan(config, compared=False)
    own = made.columns[-1]
    assert made.fits and own.percent == 50
    assert made.gpus == config.trainer.devices * config.trainer.num_nodes
    assert own.samples == made.gpus * config.optim.accumulate * config.optim.batch_size * own.load.samples
    assert own.peak == made.state.on_gpu + own.activations.total + made.machine.reserve_gib * GIB
    assert sum(made.items().values()) == pytest.approx(own.peak - 2 * GIB)
    assert f"{made.parameters.total:,} parameters" in page(made, config)


def test_a_pruned_run_is_shown_beside_an_unpruned_one_and_takes_less():
    made = plan(load_config(["trainer=h100x8_zero2", *TINY]))
    unpruned, half = made.columns
    assert (unpruned.percent, half.percent) == (0, 50)
    assert half.vision_tokens * 2 == unpruned.vision_tokens
    assert half.activations.saved < unpruned.activations.saved
    assert half.hours < unpruned.hours
    assert len(plan(load_config(["trainer=cpu", "method=none", *TINY])).columns) == 1


def test_time_follows_from_utilisation_or_from_a_measured_step():
    config = load_config(["trainer=h100x8_zero2", *TINY])
    slow, fast = (plan(config, Machine(utilisation=share), compared=False).columns[0] for share in (0.2, 0.4))
    assert slow.step_seconds == pytest.approx(2 * fast.step_seconds)
    flops = fast.work.total * config.optim.accumulate
    assert fast.step_seconds == pytest.approx(flops / (0.4 * 989.4e12))
    measured = plan(config, Machine(step_seconds=18.0), compared=False).columns[0]
    assert (measured.step_seconds, measured.hours) == (18.0, 18.0 * config.optim.steps / 3600)


@pytest.fixture(scope="module")
def made():
    return plan(load_config(["trainer=h100x8_zero2", *TINY]), compared=False)


HEAVY = State(weights=30 * GIB, gradients=20 * GIB, master=20 * GIB, moments=40 * GIB, buffers=0)
LIGHT = State(weights=1, gradients=1, master=1, moments=1, buffers=0)


@pytest.mark.parametrize(
    "overrides, state, largest, less",
    [
        (["trainer=h100x8_ddp"], HEAVY, "optimizer", "trainer.strategy=zero2, zero3 or fsdp2"),
        (["trainer=h100x8_zero1"], replace(HEAVY, gradients=70 * GIB), "gradients", "trainer.strategy=zero2"),
        (["trainer=h100x8_zero2"], replace(HEAVY, weights=70 * GIB), "weights", "trainer.strategy=zero3"),
        (["trainer=h100x8_zero3"], HEAVY, "optimizer", "trainer.offload=true"),
        (["trainer=h100x8_fsdp2"], HEAVY, "optimizer", "more GPUs"),
        ([], LIGHT, "activations", "backbone.activation_checkpointing=all"),
        (
            ["trainer=h100x8_zero2", "backbone.activation_checkpointing=all"],
            LIGHT,
            "activations",
            "optim.batch_size=1 optim.accumulate=8",
        ),
        (["optim.batch_size=1", "backbone.activation_checkpointing=all"], LIGHT, "activations", "fewer frames"),
    ],
)
def test_what_does_not_fit_is_said_with_its_largest_part_and_what_to_do(made, overrides, state, largest, less):
    config = load_config([*TINY, *overrides])
    full = replace(made, state=state, columns=[replace(made.columns[0], fits=False)])
    assert remedy(config, full)[0] == largest and less in remedy(config, full)[1]
    said = page(full, config)
    assert "DOES NOT FIT" in said and f"part of it {largest}" in said and less in said
    assert "DOES NOT FIT" not in page(made, config)


def test_a_card_holds_the_peak_or_it_does_not(made):
    config = load_config(["trainer=h100x8_zero2", *TINY])
    peak = made.columns[0].peak / GIB
    fits = [plan(config, Machine(card_gib=card), compared=False).fits for card in (peak - 0.01, peak + 0.01)]
    assert fits == [False, True]


def test_the_command_prints_a_table_and_leaves_every_number(tmp_path, capsys):
    assert main(["plan", "trainer=h100x8_zero2", *TINY, "--out", str(tmp_path), "--utilisation", "0.5"]) == 0
    said = capsys.readouterr().out
    assert "FITS of 80 GiB" in said and "50% of 989 TFLOP/s" in said and "| unpruned |" in said
    left = json.loads((tmp_path / "plan.json").read_text())
    assert left["fits"] is True and left["parameters"]["scorer"] > 0
    assert left["columns"][1]["percent"] == 50 and left["columns"][1]["activations"]["saved"] > 0


def test_the_command_compares_machines_in_a_line_each(capsys):
    assert main(["plan", *TINY, "--trainers", "h100x8_ddp,h100x8_zero3"]) == 0
    lines = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines == ["h100x8_ddp", "h100x8_zero3"]
    assert trainer_names("all") == TRAINERS


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--utilisation", "1.2"], "--utilisation 1.2 is a share of the peak"),
        (["--utilisation", "0"], "--utilisation 0.0 is a share"),
        (["--card-gib", "-1"], "--card-gib -1.0 must be greater than 0"),
        (["--step-seconds", "0"], "--step-seconds 0.0 must be greater than 0"),
        (["backbone.pretrained=some/Model-8B"], "sizes are known of allenai/Molmo2-4B"),
        (["--trainers", "h100x9"], "trainer=h100x9: no such file"),
    ],
)
def test_what_cannot_be_planned_is_said(capsys, arguments, said):
    assert main(["plan", *TINY, *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_real_size_fits_eight_h100_and_its_operations_are_those_that_torch_counts():
    config = load_config(["backbone=molmo2_4b", "trainer=h100x8_zero2"])
    made = plan(config)
    assert made.fits and [column.places for column in made.columns] == [64 * 16384] * 2
    assert not plan(load_config(["backbone=molmo2_4b", "trainer=h100x8_ddp"]), compared=False).fits

    config = load_config(["backbone=molmo2_4b", "trainer=h100x8_zero2", "method=none"])
    module, load = shadow_module(config), load_of(config, 0.0)
    with as_on_a_gpu(module.handle.model), FlopCounterMode(display=False) as counter:
        activations._loss(module, make_batch(load, module.model.config)).backward()
    shapes, clip = module.model.config, load.clip
    vision, text, work = shapes.vision_config, shapes.text_config, work_of(config, shapes, load)
    # torch counts attention between all places of a sequence, the plan between tokens that see each other; and where
    # the forward pass has two products of each pair and what runs again two more, torch counts five in the backward
    # pass, of which the plan counts the four that are not the forward pass's own.
    clips = forward_flops(shapes, Shape("4b", load.rows * load.samples, clip.frames), 0, 3, dense=False)
    seen = clips.language - load.rows * load.tokens * language_flops_per_token(text)
    everyone = 4 * text.num_hidden_layers * text.num_attention_heads * text.head_dim * load.rows * load.length**2
    in_frames = 4 * vision.num_hidden_layers * vision.hidden_size * load.frames * 729**2
    counted = work.total - 4 * seen + 4.5 * everyone + 0.5 * in_frames
    assert counter.get_total_flops() == pytest.approx(counted, rel=1e-3)
