"""Each adapter against inputs and a generate call written out by hand, on transformers' own classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

from stts_lightning.hosts.answer import Host, HostAnswerer, build_answerer, load_host_model
from stts_lightning.hosts.declare import HostSpec
from stts_lightning.video.decode import decode_clip


@pytest.fixture(scope="session")
def answerer(spec: HostSpec, host: Host) -> Iterator[HostAnswerer]:
    with build_answerer(spec, host=host, max_new_tokens=6) as made:
        yield made


def by_hand(spec: HostSpec, host: Host, video: Path, question: str) -> dict[str, torch.Tensor]:
    """The inputs of a square video of the model's own size, by each family's documented layout."""
    clip = decode_clip(video, size=24, max_frames=64, max_fps=2.0, resize="decoder")
    pixels = torch.tensor(clip.frames.astype(np.float32) / 255).permute(0, 3, 1, 2)
    for colour in range(3):
        pixels[:, colour] = (pixels[:, colour] - spec.image_mean[colour]) / spec.image_std[colour]
    count = len(clip.frames)
    if spec.name == "qwen3_vl_4b":
        patches, *grid = Qwen3VLVideoProcessor.patchify(None, pixels[None], 4, 2, 2)
        tensors = {"pixel_values_videos": patches[0], "video_grid_thw": torch.tensor([grid])}
        times = [*clip.times, clip.times[-1]][: count + count % 2]
        steps = [(first + second) / 2 for first, second in zip(times[::2], times[1::2], strict=True)]
        shown = "".join(f"<{t:.1f} seconds><|vision_start|>{'<|video_pad|>' * 9}<|vision_end|>" for t in steps)
    elif spec.name == "plm_8b":
        tensors, shown = {"pixel_values_videos": pixels[None]}, "<|video|>" * 9 * count
    else:
        tensors = {"pixel_values": pixels}
        shown = "\n".join(f"Frame{i + 1}: <img>{'<IMG_CONTEXT>' * 9}</img>" for i in range(count)) + "\n"
    ids = host.tokenizer(f"<sys><user>{shown}{question}<bot>", return_tensors="pt", add_special_tokens=False).input_ids
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **tensors}
    if spec.name == "qwen3_vl_4b":
        inputs["mm_token_type_ids"] = 2 * (ids == host.tokenizer.convert_tokens_to_ids("<|video_pad|>")).int()
    return inputs


def test_greedy_answer_is_a_hand_written_generate_call(
    spec: HostSpec, host: Host, answerer: HostAnswerer, film: Callable[..., Path], question: Any
) -> None:
    answers = set()
    for seed in range(4):
        asked = question(video=film(1.75, seed=seed))
        inputs = by_hand(spec, host, asked.video, asked.prompt)
        built = answerer.inputs(asked)
        assert built.keys() == inputs.keys()
        for name, value in inputs.items():
            assert built[name].shape == value.shape, name
            assert torch.allclose(built[name].float(), value.float(), atol=1e-6), name
        length = inputs["input_ids"].shape[1]
        out = host.model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, length:]
        wanted = host.tokenizer.decode(out, skip_special_tokens=True).strip()
        assert answerer(asked) == wanted
        answers.add(wanted)
    assert len(answers) > 1  # the frames decide, not the question


def test_other_pixels_give_other_logits(
    host: Host, answerer: HostAnswerer, film: Callable[..., Path], question: Any
) -> None:
    black, noise = (answerer.inputs(question(video=film(2.0, seed=seed))) for seed in (None, 5))
    assert torch.equal(black["input_ids"], noise["input_ids"])
    with torch.no_grad():
        logits = [host.model(**inputs).logits[0, -1] for inputs in (black, noise)]
    assert (logits[0] - logits[1]).abs().max() > 0.01 * logits[0].abs().max()


@pytest.mark.parametrize("seconds", [1.0, 1.5, 3.0])
def test_a_longer_black_video_has_the_visual_tokens_of_the_models_rule(
    spec: HostSpec, host: Host, answerer: HostAnswerer, film: Callable[..., Path], question: Any, seconds: float
) -> None:
    inputs = answerer.inputs(question(video=film(seconds)))
    frames = int(seconds * 2) + 1  # two a second, and the last one
    units = {"qwen3_vl_4b": -(-frames // 2), "plm_8b": frames, "internvl3_5_8b": frames}[spec.name]
    visual = "<IMG_CONTEXT>" if spec.name == "internvl3_5_8b" else "<|video_pad|>"
    visual = "<|video|>" if spec.name == "plm_8b" else visual
    assert (inputs["input_ids"] == host.tokenizer.convert_tokens_to_ids(visual)).sum() == units * 9
    with torch.no_grad():
        host.model(**inputs)  # raises where tokens and features do not match


def test_qwen_sees_the_videos_own_aspect_and_the_others_squares(
    spec: HostSpec, host: Host, answerer: HostAnswerer, film: Callable[..., Path], question: Any
) -> None:
    inputs = answerer.inputs(question(video=film(1.0, size=(32, 64), seed=2)))
    if spec.name == "qwen3_vl_4b":
        assert inputs["video_grid_thw"].tolist() == [[2, 4, 6]]  # 24 wide, 12 high: rounded up to whole tokens
    else:
        pixels = inputs["pixel_values" if spec.name == "internvl3_5_8b" else "pixel_values_videos"]
        assert pixels.shape[-4:] == (3, 3, 24, 24)
    with torch.no_grad():
        host.model(**inputs)


def test_only_the_clip_is_shown(host: Host, answerer: HostAnswerer, film: Callable[..., Path], question: Any) -> None:
    video = film(3.0, seed=1)
    whole = answerer.inputs(question(video=video))
    clip = answerer.inputs(question(video=video, start=1.0, end=2.0))
    same = answerer.inputs(question(video=film(1.0)))
    assert clip["input_ids"].shape == same["input_ids"].shape < whole["input_ids"].shape


def test_subtitles_stand_between_the_video_and_the_question(
    host: Host, answerer: HostAnswerer, film: Callable[..., Path], question: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = host.tokenizer.decode(answerer.inputs(question(video=film(1.0), subtitles="He sings.\n"))["input_ids"][0])
    assert text.endswith("He sings.\nWhich one?\nA. left\nB. right<bot>")
    monkeypatch.setattr(answerer, "subtitle_text", lambda lines, times: f"{len(times)} times, {lines[0]}\n")
    text = host.tokenizer.decode(answerer.inputs(question(video=film(1.0), subtitles=("Hm.",)))["input_ids"][0])
    assert "3 times, Hm.\nWhich one?" in text


def test_subtitles_that_are_no_text_need_a_function(
    answerer: HostAnswerer, film: Callable[..., Path], question: Any
) -> None:
    with pytest.raises(ValueError, match="subtitle_text"):
        answerer(question(video=film(1.0), subtitles=[(0.0, 1.0, "Hm.")]))


def test_a_question_without_a_video_is_text_alone(host: Host, answerer: HostAnswerer, question: Any) -> None:
    inputs = answerer.inputs(question())
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert host.tokenizer.decode(inputs["input_ids"][0]) == "<sys><user>Which one?\nA. left\nB. right<bot>"
    assert isinstance(answerer(question()), str)


def test_pictures_are_refused(answerer: HostAnswerer, question: Any) -> None:
    with pytest.raises(ValueError, match="videos only"):
        answerer(question(images=("picture.png",)))


def test_a_checkpoint_of_another_class_is_refused(spec: HostSpec) -> None:
    other = "InternVL" if spec.name == "plm_8b" else "PerceptionLM"
    wrong = replace(spec, model_class=f"{other}ForConditionalGeneration")
    with pytest.raises(ValueError, match=f"is a {spec.model_class}, model_class says {other}"):
        load_host_model(wrong)


def test_a_template_without_a_place_for_the_video_is_refused(
    host: Host, answerer: HostAnswerer, film: Callable[..., Path], question: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.tokenizer, "chat_template", "{{ messages[0]['content'][-1]['text'] }}")
    with pytest.raises(ValueError, match="writes no"):
        answerer(question(video=film(1.0)))


def test_a_checkpoint_that_is_not_there_is_named(spec: HostSpec, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"host {spec.name}.*nowhere.*cannot be loaded"):
        load_host_model(replace(spec, pretrained=str(tmp_path / "nowhere")))
