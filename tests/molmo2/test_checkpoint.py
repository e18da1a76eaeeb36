"""What is saved is what is loaded, scorer included; anything less is refused."""

import json

import pytest
import torch
from transformers import Molmo2ForConditionalGeneration

from stts_lightning import apply_stts
from stts_lightning.config import PruneConfig
from stts_lightning.molmo2.checkpoint import SCORER, SETTINGS, load_pruned, save_pruned


def saved(model, tokenizer, folder, **config):
    handle = apply_stts(model, PruneConfig(**{"percent": 50, "layer": 0, "seed": 3, **config}))
    with torch.no_grad():  # away from what the seed alone would give
        for parameter in handle.scorer.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    save_pruned(handle, tokenizer, folder)
    return handle


@pytest.mark.parametrize(
    "config",
    [{}, {"preset": "released", "positions": "original", "percent": 30.0}, {"method": "heuristic"}, {"method": "none"}],
)
def test_a_saved_model_loads_as_it_was(model, tiny_tokenizer, build_inputs, tmp_path, config):
    inputs = build_inputs([4, 3], left=True)
    handle = saved(model, tiny_tokenizer, tmp_path, **config)
    loaded = load_pruned(tmp_path)
    assert loaded.handle.config == handle.config
    assert torch.equal(loaded.model.eval()(**inputs).logits, model(**inputs).logits)
    assert loaded.tokenizer.convert_tokens_to_ids("<im_patch>") == model.config.image_token_id


def test_saving_leaves_the_model_pruned(model, tiny_tokenizer, build_inputs, tmp_path):
    inputs = build_inputs([4])
    handle = apply_stts(model, PruneConfig(percent=50, layer=0))
    scorer, logits = handle.scorer, model(**inputs).logits
    save_pruned(handle, tiny_tokenizer, tmp_path)
    assert handle.scorer is scorer  # an optimizer may hold its parameters
    assert torch.equal(model(**inputs).logits, logits)
    handle.percent = 25
    assert model(**inputs).pruning.kept_tokens == [27]


def test_stock_transformers_loads_the_unpruned_model(model, tiny_tokenizer, build_inputs, tmp_path):
    inputs = build_inputs([4])
    saved(model, tiny_tokenizer, tmp_path).remove()
    stock = Molmo2ForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert torch.equal(stock(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("name", [SETTINGS, SCORER])
def test_a_missing_file_is_named(model, tiny_tokenizer, tmp_path, name):
    saved(model, tiny_tokenizer, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=rf"has no {name}"):
        load_pruned(tmp_path)


def test_a_scorer_that_does_not_fit_its_settings_is_named(model, tiny_tokenizer, tmp_path):
    saved(model, tiny_tokenizer, tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    (tmp_path / SETTINGS).write_text(json.dumps({**settings, "preset": "released"}))
    with pytest.raises(ValueError, match=rf"(?s){SCORER} does not fit.*mlp\.w1\.weight"):
        load_pruned(tmp_path)
