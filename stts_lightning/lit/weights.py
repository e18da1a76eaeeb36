"""All weights of a model, from processes that share them out or from the checkpoint that they left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from stts_lightning.lit.trust import no_code_from
from stts_lightning.molmo2.checkpoint import save_pruned

Weights = dict[str, Tensor]


class SaveModel(pl.Callback):
    """Leaves the trained model in ``folder``, before the last checkpoint is sealed: what that one resumes is saved."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self._saved = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if self._saved or trainer.global_step < trainer.max_steps:
            return
        self._saved = True
        weights = whole_weights(pl_module.model, pl_module.config.trainer.strategy)
        if trainer.is_global_zero:
            save_pruned(pl_module.handle, self.tokenizer, self.folder, weights)
        trainer.strategy.barrier()


def whole_weights(model: nn.Module, strategy: str) -> Weights | None:
    """By name, as the optimizer has them: in float32 where the processes compute in bfloat16. To be called by all
    processes; the first gets them, on the CPU where they were shared out."""
    if strategy == "fsdp2":
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    weights = model.state_dict()
    if strategy.startswith("zero"):
        from deepspeed.runtime.zero import GatheredParameters
        from deepspeed.utils import safe_get_full_fp32_param

        for name, parameter in model.named_parameters(remove_duplicate=False):
            with GatheredParameters([parameter]):  # what is frozen has no copy in the optimizer
                whole = safe_get_full_fp32_param(parameter) if parameter.requires_grad else None
                weights[name] = (parameter.detach() if whole is None else whole).cpu().clone()
    return weights


def read_checkpoint(checkpoint: Path, model: nn.Module) -> None:
    """Load the weights of a training's checkpoint, whatever strategy wrote it, into ``model``, a single process's.

    Raises:
        ValueError: the checkpoint lacks weights of the model or has others; names them. Or `no_code_from`'s.
    """
    with no_code_from(checkpoint):
        found = _read(checkpoint, model)
    names = {name: name for name in model.state_dict()}
    shared = {id(p): [] for p in model.parameters()}  # type: dict[int, list[str]]
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared[id(parameter)].append(name)
    for same in shared.values():  # tied weights are written under one of their names
        written = [name for name in same if name in found]
        names |= dict.fromkeys(same, written[0]) if written else {}
    missing = sorted(name for name, source in names.items() if source not in found)
    unknown = sorted(found.keys() - names.keys())
    if missing or unknown:
        raise ValueError(
            f"{checkpoint} is of another model: it lacks {missing[:5] or 'nothing'} and has {unknown[:5] or 'nothing'} "
            "besides. Take the config.yaml of the run that wrote it."
        )
    model.load_state_dict({name: found[source] for name, source in names.items()})


def _read(checkpoint: Path, model: nn.Module) -> Weights:
    """By the names of ``model``, which the training has under ``model.``."""
    if checkpoint.is_file():
        weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    elif (checkpoint / ".metadata").is_file():
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.api import CheckpointException

        weights = {f"model.{name}": torch.empty_like(value) for name, value in model.state_dict().items()}
        try:
            dcp.load({"state_dict": weights}, checkpoint_id=checkpoint, no_dist=True)
        except CheckpointException as error:
            first = next(iter(error.failures.values()))[0]
            raise ValueError(
                f"{checkpoint} is of another model: {first}. Take the config.yaml of the run that wrote it."
            ) from None
    else:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        weights = get_fp32_state_dict_from_zero_checkpoint(checkpoint, tag="checkpoint")
        # Of stage 1 it forgets what is frozen, which every process has whole.
        whole = checkpoint / "checkpoint" / "mp_rank_00_model_states.pt"
        if whole.is_file():
            weights = {**torch.load(whole, map_location="cpu")["module"], **weights}
    return {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
