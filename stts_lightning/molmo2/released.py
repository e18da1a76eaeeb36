"""Scorer weights under the names of the authors' released code."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from stts_lightning.molmo2.patch import PrunedMolmo2

RELEASED_PREFIX = "temporal_token_scorer."  # whatever stands before it is the path of the authors' model


def load_released_scorer(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load the scorer of a released checkpoint into a model that `apply_stts` pruned with preset="released".

    Args:
        state_dict: of the whole released model, under ``<any path>.temporal_token_scorer.``, or of the scorer
            alone, with or without that prefix.

    Raises:
        ValueError: a model without a scorer of the released shape, or missing, unknown or ill-fitting weights.
            The model is left as it was.
    """
    scorer = _released_scorer(model)
    given = _scorer_weights(state_dict)
    own = scorer.state_dict()
    missing = sorted(own.keys() - given.keys())
    unexpected = sorted(given.keys() - own.keys())
    if missing or unexpected:
        raise ValueError(
            f"The state dict does not hold a released scorer: missing {missing}, unexpected {unexpected}. "
            f"Its keys are {', '.join(own)}, alone or under '...{RELEASED_PREFIX}'."
        )
    for name, weight in own.items():
        if given[name].shape != weight.shape:
            raise ValueError(
                f"{name} has shape {tuple(given[name].shape)}, but this model's scorer needs {tuple(weight.shape)}. "
                "A scorer fits the vision tower that it was trained with: load that backbone first."
            )
    scorer.load_state_dict(dict(given))


def _released_scorer(model: nn.Module) -> nn.Module:
    remedy = "Call apply_stts(model, PruneConfig(method='stts', preset='released')) first."
    if not isinstance(model, PrunedMolmo2):
        raise ValueError(f"{type(model).__name__} is not a pruned model. {remedy}")
    config = model.model.prune_config
    if config.method not in ("stts", "stts_no_aux"):
        raise ValueError(f"prune.method={config.method!r} has no weights to load. {remedy}")
    if config.preset != "released":
        raise ValueError(f"prune.preset={config.preset!r} has another scorer than the released code. {remedy}")
    return model.model.vision_tower.token_scorer


def _scorer_weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scorer's entries under their leaf names; of a state dict without the prefix, all entries."""
    given: dict[str, Tensor] = {}
    path_of: dict[str, str] = {}
    for key, weight in state_dict.items():
        path, found, name = key.rpartition(RELEASED_PREFIX)
        if not found:
            continue
        if name in given:
            raise ValueError(f"Two scorers in one state dict: {path_of[name]!r} and {key!r}. Pass one of them.")
        given[name], path_of[name] = weight, key
    return given or dict(state_dict)
