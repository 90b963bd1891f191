from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from harness.errors import InputError
from trainers import model_shapes
from trainers.model_shapes import find_shape, known_models, shape_of

# Weights as the hub counts them in each repository's files.
PUBLISHED = {
    "meta-llama/Llama-2-7b-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-chat-hf": 13_015_864_320,
    "meta-llama/Llama-2-70b-hf": 68_976_648_192,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "meta-llama/Meta-Llama-3-70B": 70_553_706_496,
    "mistralai/Mistral-7B-v0.1": 7_241_732_096,
    "mistralai/Mistral-7B-v0.3": 7_248_023_552,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_well_known_models_have_their_published_size(name: str) -> None:
    assert find_shape(name).parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", known_models())
def test_well_known_shapes_on_the_meta_device(name: str) -> None:
    shape = find_shape(name)
    config = AutoConfig.for_model(
        shape.family,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(p.numel() for p in model.parameters())


def test_pocket_and_folders(tmp_path: Path) -> None:
    pocket = find_shape("pocket")
    assert pocket.tied
    assert pocket.parameters == pytest.approx(1.2e6, rel=0.02)
    (tmp_path / "config.json").write_text(
        (model_shapes.POCKET_BASE / "config.json").read_text(encoding="utf-8"), encoding="utf-8"
    )
    assert find_shape(str(tmp_path)) == pocket


def test_the_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config.json that was downloaded counts, before the table."""
    file = tmp_path / "config.json"
    config = json.loads((model_shapes.POCKET_BASE / "config.json").read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "num_hidden_layers": 7}), encoding="utf-8")
    asked: list[tuple[str, str]] = []

    def cached(repository: str, name: str) -> str:
        asked.append((repository, name))
        return str(file)

    monkeypatch.setattr(model_shapes, "try_to_load_from_cache", cached)
    assert find_shape("meta-llama/Llama-2-7b-hf").layers == 7
    assert asked == [("meta-llama/Llama-2-7b-hf", "config.json")]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("owner/unheard-of", "give"),
        ("meta-llama/Llama-2-7b-hg", "did you mean 'meta-llama/Llama-2-7b'"),
        ("/no/such/folder", "no such model folder"),
    ],
)
def test_unknown_models(model: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        find_shape(model)
    assert said in str(caught.value).replace("a folder with its config.json", "give")


def test_unusable_configurations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json is missing"):
        find_shape(str(tmp_path))
    file = tmp_path / "config.json"
    for text, said in [
        ("{", "not JSON"),
        ("[]", "a JSON object"),
        ('{"model_type": "mamba"}', "expected one of llama"),
        ('{"model_type": "llama"}', "hidden_size: a field is missing"),
    ]:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=said):
            find_shape(str(tmp_path))


def test_fields_that_a_configuration_may_leave_out() -> None:
    config = {
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "vocab_size": 100,
        "max_position_embeddings": 32,
    }
    shape = shape_of(config)
    assert (shape.kv_heads, shape.head_dim, shape.tied, shape.window) == (4, 16, False, None)


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "vocab_size": 100,
    "max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    "fields",
    [
        {"model_type": "llama"},
        {"model_type": "mistral"},
        {"model_type": "mistral", "num_key_value_heads": 4, "head_dim": 6},
        {"model_type": "qwen2"},
        {"model_type": "qwen2", "num_key_value_heads": None, "head_dim": 8},
        {"model_type": "qwen3"},
        {"model_type": "qwen3", "num_key_value_heads": None, "head_dim": 4},
        {"model_type": "qwen3", "attention_bias": True, "tie_word_embeddings": True},
        {"model_type": "gpt_neox"},
        {"model_type": "gpt_neox", "attention_bias": False},
    ],
)
def test_absent_fields_are_what_transformers_fills_in(fields: dict[str, Any]) -> None:
    config = AutoConfig.for_model(**(SMALL | fields))
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shape = shape_of(SMALL | fields)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    assert shape.kv_heads == getattr(config, "num_key_value_heads", shape.heads)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"hidden_size": "64"}, "hidden_size: is '64'; expected a whole number from 1 to"),
        ({"hidden_size": -64}, "hidden_size: is -64; expected a whole number from 1"),
        ({"hidden_size": 64.0}, "hidden_size: is 64.0; expected"),
        ({"hidden_size": True}, "hidden_size: is True; expected"),
        ({"hidden_size": 10**30}, "hidden_size: is 1000"),
        ({"num_attention_heads": 0}, "num_attention_heads: is 0; expected"),
        ({"num_attention_heads": 5}, "num_attention_heads: 5 heads do not divide hidden_size 64"),
        ({"num_key_value_heads": 0}, "num_key_value_heads: is 0; expected"),
        ({"num_key_value_heads": 5}, "num_key_value_heads: 5 do not divide num_attention_heads 32"),
        ({"max_position_embeddings": None}, "max_position_embeddings: is None; expected"),
        ({"max_position_embeddings": 0}, "max_position_embeddings: is 0; expected"),
        ({"max_position_embeddings": 1}, "is 1; expected a whole number from 2"),
        ({"num_hidden_layers": []}, "num_hidden_layers: is []; expected"),
        ({"head_dim": "x" * 10_000}, "head_dim: is 'xxx"),
        ({"vocab_size": None}, "vocab_size: is None; expected"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: is 'yes'; expected true or false"),
        ({"model_type": ["llama"]}, "the memory of model_type ['llama'] is not known"),
        ({"model_type": None}, "the memory of model_type None is not known"),
        ({"model_type": "mistral", "sliding_window": 0}, "sliding_window: is 0; expected"),
    ],
)
def test_odd_fields_are_told_in_a_line(tmp_path: Path, fields: Any, said: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(SMALL | {"model_type": "llama"} | fields), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        find_shape(str(tmp_path))
    told = str(caught.value)
    assert said in told
    assert told.startswith(f"{file}: ")
    assert "\n" not in told
    assert len(told) < len(str(file)) + 200


@pytest.mark.parametrize("text", ["[" * 200_000 + "]" * 200_000, '{"a": ' + "9" * 10_000 + "}"])
def test_a_configuration_that_no_parser_takes_is_not_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="not JSON"):
        find_shape(str(tmp_path))
