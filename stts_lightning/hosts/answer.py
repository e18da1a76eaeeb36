"""Another video model answers a benchmark's questions. MAIN PATH of a comparison row.

item -> our frames -> the family's tensors and text -> the checkpoint's chat template -> greedy generation -> text
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer, PreTrainedTokenizerBase

from stts_lightning.hosts.declare import HostSpec
from stts_lightning.hosts.families import FAMILIES, Shown
from stts_lightning.hosts.pixels import Size
from stts_lightning.video.clip import Clip
from stts_lightning.video.reader import ClipReader
from stts_lightning.video.upright import upright_size
from stts_lightning.video.write import playable


class Item(Protocol):
    """What an answerer reads of a benchmark's question; times in seconds."""

    @property
    def prompt(self) -> str: ...
    @property
    def video(self) -> Path | None: ...
    @property
    def decoder(self) -> str: ...
    @property
    def start(self) -> float | None: ...
    @property
    def end(self) -> float | None: ...
    @property
    def subtitles(self) -> Any: ...
    @property
    def images(self) -> Any: ...


class Host(NamedTuple):
    spec: HostSpec
    model: Any
    tokenizer: PreTrainedTokenizerBase


SubtitleText = Callable[[Any, np.ndarray], str]  # of an item's subtitles and the sampled times (T,)


def load_host_model(spec: HostSpec, device: str | None = None) -> Host:
    """The checkpoint and its tokenizer by transformers' Auto classes, on the GPU where there is one.

    Raises:
        ValueError: the checkpoint cannot be loaded, or is of another class than the declaration says.
    """
    where: dict[str, Any] = {"trust_remote_code": False, **({"revision": spec.revision} if spec.revision else {})}
    try:
        model: Any = AutoModelForImageTextToText.from_pretrained(
            spec.pretrained, dtype=getattr(torch, spec.dtype), use_safetensors=True, **where
        )
        tokenizer = AutoTokenizer.from_pretrained(spec.pretrained, **where)
    except (OSError, ImportError) as error:
        raise ValueError(
            f"host {spec.name}: {spec.pretrained} cannot be loaded: {str(error).strip().splitlines()[0]} "
            "Download it first, or give a folder as `pretrained`; PerceptionLM needs the package timm as well."
        ) from error
    found = type(model).__name__
    if found != spec.model_class:
        raise ValueError(f"host {spec.name}: {spec.pretrained} is a {found}, model_class says {spec.model_class}.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Host(spec, model.to(device).eval(), tokenizer)


def build_answerer(
    spec: HostSpec,
    *,
    host: Host | None = None,
    max_new_tokens: int | None = None,
    subtitle_text: SubtitleText | None = None,
    frames_fps: float | None = None,
    timeout_s: float = 30.0,
) -> HostAnswerer:
    """An answerer for the benchmarks' runner.

    Args:
        host: loaded already, for several benchmarks; null loads it.
        max_new_tokens: the benchmark's; null takes the declaration's.
        subtitle_text: what a prompt shows of an item's subtitles; null takes texts as they are.
        frames_fps: of a video that is a folder of pictures.
        timeout_s: to decode one clip.
    """
    return HostAnswerer(
        host or load_host_model(spec),
        max_new_tokens or spec.max_new_tokens,
        subtitle_text or _as_it_is,
        frames_fps,
        ClipReader(timeout_s=timeout_s),
    )


class HostAnswerer:
    """Answers questions about videos; close it, or use it in a `with` block, to end the process that decodes."""

    def __init__(
        self,
        host: Host,
        max_new_tokens: int,
        subtitle_text: SubtitleText,
        frames_fps: float | None,
        reader: ClipReader,
    ) -> None:
        self.host = host
        self.family = FAMILIES[host.spec.model_class]
        self.max_new_tokens = max_new_tokens
        self.subtitle_text = subtitle_text
        self.frames_fps = frames_fps
        self.reader = reader

    def __enter__(self) -> HostAnswerer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.reader.close()

    def __call__(self, item: Item) -> str:
        """What the model writes.

        Raises:
            ValueError: an item with pictures, or a chat template without a place for the video.
        """
        return self.generate(self.inputs(item))

    def inputs(self, item: Item) -> dict[str, Tensor]:
        """One row of the model's inputs; text alone for an item without a video."""
        if item.images:
            raise ValueError(f"host {self.host.spec.name} is asked about videos only, and this question has pictures.")
        if item.video is None:
            return self._encode(self._prompt(item.prompt, None), {})
        video = playable(item.video, self.frames_fps)
        clip = self._read(item, video)
        size = Size(*upright_size(video))
        shown = self.family.show(clip, size, self.host.spec, self.host.model.config, self._video_token())
        text = self.subtitle_text(item.subtitles, clip.times) + item.prompt
        return self._encode(self._prompt(text, shown), shown.tensors)

    @torch.no_grad()
    def generate(self, inputs: dict[str, Tensor]) -> str:
        """Greedy: a checkpoint's own sampling settings are set aside."""
        model, tokenizer = self.host.model, self.host.tokenizer
        moved = {name: value.to(model.device) for name, value in inputs.items()}
        moved = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in moved.items()}
        out = model.generate(
            **moved, max_new_tokens=self.max_new_tokens, do_sample=False, num_beams=1, repetition_penalty=1.0
        )
        return str(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)).strip()

    def _read(self, item: Item, video: Path) -> Clip:
        spec = self.host.spec
        return self.reader.read(
            video,
            size=spec.image_size,
            max_frames=spec.max_frames,
            max_fps=spec.fps,
            start=item.start,
            end=item.end,
            decoder=item.decoder,
            resize="decoder",  # its filter widens as the picture shrinks, which is nearer to these models' antialias
        )

    def _prompt(self, text: str, shown: Shown | None) -> str:
        content = [{"type": "video"}] if shown is not None else []
        messages: list[Any] = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
        prompt = self.host.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert isinstance(prompt, str)
        if shown is None:
            return prompt
        before, mark, after = prompt.partition(self.family.mark)
        if not mark:
            spec = self.host.spec
            raise ValueError(
                f"host {spec.name}: the chat template of {spec.pretrained} writes no {self.family.mark!r} for a video. "
                "It is not a template of this model family."
            )
        return before + shown.text + after

    def _encode(self, prompt: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        # The chat template has written the special tokens.
        ids = torch.tensor([self.host.tokenizer(prompt, add_special_tokens=False).input_ids])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **tensors}
        if self.family.token_type is not None and tensors:
            visual = ids == getattr(self.host.model.config, self.family.video_id)
            inputs["mm_token_type_ids"] = visual.long() * self.family.token_type
        return inputs

    def _video_token(self) -> str:
        token = self.host.tokenizer.convert_ids_to_tokens(getattr(self.host.model.config, self.family.video_id))
        assert isinstance(token, str)
        return token


def _as_it_is(subtitles: Any, times: np.ndarray) -> str:
    if not subtitles:
        return ""
    if not isinstance(subtitles, str):
        raise ValueError("these subtitles are no text: pass `subtitle_text`, which makes one of them.")
    return subtitles
