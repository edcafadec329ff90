"""Pretrained text encoders against what transformers answers, and policies that are told through them."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_instructions import TEXTS, mean_action, recording, settings

from diffpolicy import checkpoint, load_policy, train_policy
from diffpolicy.config import load_config
from diffpolicy.nets.text_towers import T5Text
from diffpolicy.policies.text_pretrained import PretrainedEncoder

FIXTURES = Path(__file__).parents[1] / "text_towers"  # made by scripts/lab/make_text_fixtures.py
SAID = ["go left", "push the red block into the left zone and then go right", "right"]
each = pytest.mark.parametrize("kind", ["clip", "t5", "t5_gated"])


@each
def test_the_towers_answer_as_transformers_does(kind):
    encoder = PretrainedEncoder(str(FIXTURES / kind))
    expected = np.load(FIXTURES / kind / "expected.npz")
    for k, row in enumerate(encoder.ids(SAID)):
        said = encoder._of(row.tolist()).numpy()
        count = int((row >= 0).sum())
        np.testing.assert_allclose(said[:count], expected[f"text{k}"], rtol=0, atol=3e-5)
        assert (said[count:] == 0).all()


def test_the_distances_of_t5_are_those_of_transformers():
    """Its buckets of 32 numbers, by hand: near ones apart, then by logarithm up to 128, and one for all beyond."""
    tower = T5Text(
        {"d_model": 4, "d_kv": 2, "d_ff": 4, "num_layers": 1, "num_heads": 1, "vocab_size": 3}
        | {"relative_attention_num_buckets": 32}
    )
    distances = torch.tensor([-200, -128, -127, -16, -8, -7, 0, 7, 8, 15, 16, 127, 500])
    assert tower._bucket(distances).tolist() == [15, 15, 15, 10, 8, 7, 0, 23, 24, 25, 26, 31, 31]


@each
def test_what_is_computed_once_is_what_would_be_computed_again(kind):
    torch.manual_seed(0)
    encoder = PretrainedEncoder(str(FIXTURES / kind), features=5, width=6, length=20)
    ids = encoder.ids(SAID)
    first, again = encoder(ids), encoder(ids.flip(0))
    torch.testing.assert_close(first.vector, again.vector.flip(0))
    assert first.tokens.shape == (3, 20, 6) and first.mask.sum(1).tolist()[0] in (3, 4)
    alone = encoder(ids[2:, : int((ids[2] >= 0).sum())])
    torch.testing.assert_close(alone.vector, first.vector[2:])
    names = list(encoder.state_dict())
    assert names == ["token.weight", "token.bias", "vector.weight", "vector.bias"]  # the tower stays outside
    copied = copy.deepcopy(encoder)
    assert copied._tower is encoder._tower and copied.token is not encoder.token
    torch.testing.assert_close(copied(ids).vector, first.vector)
    none = encoder(encoder.null(ids))
    assert torch.equal(none.vector[0], none.vector[1]) and none.mask.any(1).all()


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"lacks config.json, tokenizer.json, model.safetensors.*DIFFPOLICY_TEXT"):
        PretrainedEncoder(str(tmp_path))
    with pytest.raises(ValueError, match="without a folder; give text.path=FOLDER"):
        PretrainedEncoder("")
    folder = tmp_path / "clip"
    shutil.copytree(FIXTURES / "clip", folder)
    with pytest.raises(ValueError, match="holds another encoder than training had"):
        PretrainedEncoder(str(folder), known="0" * 64)
    with pytest.raises(ValueError, match="more than the 2 tokens that mark a text's ends"):
        PretrainedEncoder(str(folder), length=2)
    known = PretrainedEncoder.identity({"path": str(folder)})
    words = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(words.replace('"left"', '"lift"'))
    assert PretrainedEncoder.identity({"path": str(folder)}) != known
    (folder / "tokenizer.json").write_text(words)
    (folder / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="config.json knows no 'hidden_size'"):
        PretrainedEncoder(str(folder))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="a model of type 'bert'; expected one of clip"):
        PretrainedEncoder(str(folder))
    shutil.copy(FIXTURES / "clip" / "config.json", folder / "config.json")
    weights = load_file(folder / "model.safetensors")
    weights.pop(next(name for name in weights if "fc1" in name))
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks text_model.*fc1"):
        PretrainedEncoder(str(folder))
    encoder = PretrainedEncoder(str(FIXTURES / "t5"), length=4)
    with pytest.raises(ValueError, match=r"of 13 tokens; expected at most 4; say it shorter"):
        encoder.ids(SAID[1:2])
    with pytest.raises(ValueError, match="expected words"):
        encoder.ids([" "])


def test_a_policy_is_told_through_it_and_its_checkpoint_knows_the_weights(tmp_path, monkeypatch):
    folder = tmp_path / "t5"
    shutil.copytree(FIXTURES / "t5", folder)
    path = recording(tmp_path / "told.zarr")
    monkeypatch.chdir(tmp_path)
    kept = [one for one in settings(path, tmp_path / "run") if not one.startswith("text.")]
    told = ["text=pretrained", "text.path=t5", "text.width=16", "text.features=16"]
    last = train_policy([*kept, *told])
    config = load_config(checkpoint.read(last).config)
    assert config.text["path"] == str(folder) and len(config.found.text) == 64
    assert (Path(checkpoint.read(last).path) / "ema.safetensors").stat().st_size < 2e6
    monkeypatch.chdir("/")
    texts = ["go left", "go right"] * 16  # words that its tokenizer knows
    actions, _ = mean_action(load_policy(last, steps=10), texts, [0.0] * 32)
    np.testing.assert_array_equal(np.sign(actions[:, 0]), [-1, 1] * 16)
    assert set(TEXTS[:2]) == set(texts)
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(checkpoint.CheckpointError, match=r"text.path=.*lacks config.json.*or DIFFPOLICY_TEXT"):
        load_policy(last)
    monkeypatch.setenv("DIFFPOLICY_TEXT", str(tmp_path / "elsewhere"))
    np.testing.assert_array_equal(mean_action(load_policy(last, steps=10), texts, [0.0] * 32)[0], actions)
    monkeypatch.delenv("DIFFPOLICY_TEXT")
    (tmp_path / "elsewhere").rename(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value + 0.1 for name, value in weights.items()}, folder / "model.safetensors")
    with pytest.raises(checkpoint.CheckpointError, match="holds another encoder than training had"):
        load_policy(last)
