"""Many adapters on one base, and the traps that come with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.checkpoint import CheckpointError
from transformers import AutoConfig, AutoModelForCausalLM

from harness.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Activation,
    activate,
    active,
    adapter_hash,
    adapter_weights,
    add_adapter,
    copy_adapter,
    hash_file,
    load_adapter,
    read_weights,
    remove_adapter,
    save_adapter,
    using,
)
from harness.errors import InputError, IntegrityError
from harness.models import ModelSpec, causal_model, load

IDS = torch.tensor([[1, 20, 30, 40, 50, 60], [1, 70, 80, 90, 100, 110]])


def lora(**changes: object) -> LoraConfig:
    settings: dict = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    return LoraConfig(**(settings | {"task_type": "CAUSAL_LM"} | changes))


def base(folder: Path, **changes: object) -> torch.nn.Module:
    return load(ModelSpec(str(folder), **changes)).model


def randomise(model: PeftModel, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for weight in adapter_weights(model, name).values():
        weight.data = 0.2 * torch.randn(weight.shape, generator=generator)


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def two(folder: Path, **changes: object) -> PeftModel:
    """A base with two different adapters whose names contain each other."""
    model = add_adapter(base(folder, **changes), "policy", lora(), seed=1)
    add_adapter(model, "policy_start", lora(), seed=2)
    randomise(model, "policy", 10)
    randomise(model, "policy_start", 20)
    return model


def test_a_new_adapter_changes_no_logit(tiny_llama: Path) -> None:
    plain = base(tiny_llama)
    before = logits(plain)
    model = add_adapter(plain, "policy", lora(), seed=1)
    assert active(model) == Activation(None)
    activate(model, "policy")
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("training", [False, True])
def test_a_new_adapter_drops_out_only_where_the_model_does(
    tiny_llama: Path, training: bool
) -> None:
    """peft makes new dropout in training mode, whatever the model's is."""
    plain = base(tiny_llama).train(training)
    model = add_adapter(plain, "policy", lora(lora_dropout=0.5), seed=1)
    model = add_adapter(model, "other", lora(lora_dropout=0.5), seed=2)
    randomise(model, "other", 20)
    activate(model, "other")
    assert {module.training for module in model.modules()} == {training}
    assert torch.equal(logits(model), logits(model)) is not training


def test_the_start_is_a_function_of_the_seed_alone(tiny_llama: Path) -> None:
    torch.manual_seed(1)
    alone = add_adapter(base(tiny_llama), "policy", lora(), seed=5)
    torch.manual_seed(2)
    torch.rand(7)
    third = two(tiny_llama)
    state = torch.get_rng_state()
    add_adapter(third, "other", lora(), seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert adapter_hash(third, "other") == adapter_hash(alone, "policy")
    add_adapter(third, "seeded_otherwise", lora(), seed=6)
    assert adapter_hash(third, "seeded_otherwise") != adapter_hash(alone, "policy")


def test_the_given_configuration_is_not_written_into(tiny_llama: Path) -> None:
    config = lora()
    add_adapter(base(tiny_llama), "policy", config, seed=1)
    assert config.target_modules == "all-linear"


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_weights_are_float32_on_a_bfloat16_base(tiny_llama: Path, quantization: str) -> None:
    model = two(tiny_llama, dtype="bfloat16", quantization=quantization)
    weights = adapter_weights(model, "policy").values()
    assert {weight.dtype for weight in weights} == {torch.float32}
    activate(model, "policy", train=True)
    logits = model(input_ids=IDS).logits
    assert logits.dtype == torch.bfloat16
    logits.float().logsumexp(-1).sum().backward()
    assert all(weight.grad is not None for weight in weights)


def test_activation_trains_exactly_one_adapter(tiny_llama: Path) -> None:
    model = two(tiny_llama)
    for name in ("policy", "policy_start"):
        activate(model, name, train=True)
        assert active(model) == Activation(name, train=True)
        trained = {key for key, weight in model.named_parameters() if weight.requires_grad}
        assert trained == {key for key in trained if f".{name}." in key}
        assert len(trained) == len(adapter_weights(model, name))
    activate(model, "policy")
    assert not any(weight.requires_grad for weight in model.parameters())
    with pytest.raises(ValueError, match="nothing to train"):
        activate(model, None, train=True)
    with pytest.raises(KeyError, match="no adapter 'polcy'; there are: policy, policy_start"):
        activate(model, "polcy")


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_base_alone_is_bit_equal_to_a_fresh_one(tiny_llama: Path, quantization: str) -> None:
    fresh = logits(base(tiny_llama, quantization=quantization))
    model = two(tiny_llama, quantization=quantization)
    activate(model, "policy")
    assert not torch.equal(logits(model), fresh)
    activate(model, None)
    assert torch.equal(logits(model), fresh)


def test_using_puts_back_what_was_active(tiny_llama: Path) -> None:
    model = two(tiny_llama)
    activate(model, "policy", train=True)
    with using(model, "policy_start"):
        assert active(model) == Activation("policy_start")
        with using(model, None):
            assert active(model) == Activation(None)
    assert active(model) == Activation("policy", train=True)

    with pytest.raises(ZeroDivisionError), using(model, None):
        _ = 1 / 0
    assert active(model) == Activation("policy", train=True)


def gradients(model: PeftModel, name: str) -> list[Tensor | None]:
    return [weight.grad for weight in adapter_weights(model, name).values()]


def loss(model: PeftModel) -> Tensor:
    return model(input_ids=IDS).logits.logsumexp(-1).sum()


def true_gradients(folder: Path) -> list[Tensor]:
    model = two(folder)
    activate(model, "policy", train=True)
    loss(model).backward()
    return [gradient for gradient in gradients(model, "policy") if gradient is not None]


def test_taking_turns_gives_each_adapter_its_own_gradient(tiny_llama: Path) -> None:
    expected = true_gradients(tiny_llama)
    model = two(tiny_llama)
    activate(model, "policy_start", train=True)
    loss(model).backward()
    activate(model, "policy", train=True)
    loss(model).backward()
    for found, wanted in zip(gradients(model, "policy"), expected, strict=True):
        assert found is not None
        assert torch.equal(found, wanted)


def test_trap_switching_before_the_backward_gives_no_gradient(tiny_llama: Path) -> None:
    """Why forward and backward of one adapter must finish before another is activated."""
    model = two(tiny_llama)
    activate(model, "policy", train=True)
    value = loss(model)
    activate(model, "policy_start")
    value.backward()  # no error: that is the trap
    assert all(gradient is None or not gradient.any() for gradient in gradients(model, "policy"))


@pytest.mark.filterwarnings("ignore:.*checkpointing_enable.*:FutureWarning")
@pytest.mark.parametrize("switch", [None, "frozen", "trainable"])
def test_trap_switching_under_checkpointing(tiny_llama: Path, switch: str | None) -> None:
    """Recomputation goes through the adapter that is active then: an error, or worse, none."""
    expected = true_gradients(tiny_llama)
    model = two(tiny_llama)
    model.train()
    causal_model(model).gradient_checkpointing_enable({"use_reentrant": False})
    activate(model, "policy", train=True)
    value = causal_model(model)(input_ids=IDS, use_cache=False).logits.logsumexp(-1).sum()
    if switch is not None:
        activate(model, "policy_start")
        for name in ("policy", "policy_start") if switch == "trainable" else ():
            for weight in adapter_weights(model, name).values():
                weight.requires_grad_(True)
    if switch == "frozen":
        with pytest.raises(CheckpointError):
            value.backward()
        return
    value.backward()
    right = all(
        found is not None and torch.allclose(found, wanted, rtol=1e-3, atol=1e-4)
        for found, wanted in zip(gradients(model, "policy"), expected, strict=True)
    )
    assert right is (switch is None)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_what_is_saved_is_what_plain_peft_loads(
    tiny_llama: Path, tmp_path: Path, quantization: str
) -> None:
    model = two(tiny_llama, quantization=quantization)
    activate(model, "policy")
    expected = logits(model)
    save_adapter(model, "policy", tmp_path)
    assert active(model) == Activation("policy")

    ours = load_adapter(base(tiny_llama, quantization=quantization), "again", tmp_path)
    activate(ours, "again")
    assert torch.equal(logits(ours), expected)

    if quantization == "none":
        plain = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
        theirs = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
        assert torch.equal(logits(theirs), expected)
        # and back: what peft itself saves has the same keys
        theirs.save_pretrained(str(tmp_path / "theirs"))
        assert read_weights(tmp_path / "theirs").keys() == read_weights(tmp_path).keys()


@pytest.mark.parametrize(
    "changes", [{"use_dora": True}, {"target_modules": ["q_proj", "embed_tokens"]}]
)
def test_other_kinds_of_lora_keep_pefts_names(
    tiny_llama: Path, tmp_path: Path, changes: dict
) -> None:
    model = add_adapter(base(tiny_llama), "policy", lora(**changes), seed=1)
    activate(model, "policy")
    expected = logits(model)
    save_adapter(model, "policy", tmp_path)
    model.save_pretrained(str(tmp_path / "theirs"), save_embedding_layers=False)
    assert read_weights(tmp_path).keys() == read_weights(tmp_path / "theirs" / "policy").keys()
    again = load_adapter(base(tiny_llama), "again", tmp_path / "theirs" / "policy")
    activate(again, "again")
    assert torch.equal(logits(again), expected)


def test_the_configuration_is_written_in_one_order(tiny_llama: Path, tmp_path: Path) -> None:
    save_adapter(two(tiny_llama), "policy", tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_text(encoding="utf-8"))
    assert config["target_modules"] == sorted(config["target_modules"])
    assert config["inference_mode"] is True
    assert list(config) == sorted(config)


def test_the_hash_in_memory_is_that_of_the_committed_file(tiny_llama: Path, tmp_path: Path) -> None:
    model = two(tiny_llama)
    save_adapter(model, "policy", tmp_path)
    assert adapter_hash(model, "policy") == hash_file(tmp_path)
    assert adapter_hash(read_weights(tmp_path)) == hash_file(tmp_path)
    assert adapter_hash(model, "policy_start") != hash_file(tmp_path)
    with torch.no_grad():  # the smallest change there is
        weight = next(iter(adapter_weights(model, "policy").values()))
        weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    assert adapter_hash(model, "policy") != hash_file(tmp_path)


def test_a_copy_is_equal_and_apart(tiny_llama: Path) -> None:
    model = two(tiny_llama)
    activate(model, "policy")
    copy_adapter(model, "policy", "reference")
    assert active(model) == Activation("policy")
    assert adapter_hash(model, "reference") == adapter_hash(model, "policy")
    randomise(model, "policy", 30)
    assert adapter_hash(model, "reference") != adapter_hash(model, "policy")
    copy_adapter(model, "reference", "next", trainable=True)
    assert active(model) == Activation("next", train=True)


def test_a_reward_adapter_with_its_head_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    """Where peft would load the rest and drop ``score.weight`` without a word."""
    model = two(tiny_llama)
    save_adapter(model, "policy", tmp_path)
    weights = read_weights(tmp_path)
    head = {"base_model.model.score.weight": torch.zeros(1, 64)}
    save_file(weights | head, tmp_path / WEIGHTS_FILE)
    config = json.loads((tmp_path / CONFIG_FILE).read_text(encoding="utf-8"))
    config |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(IntegrityError, match=r"unexpected tensor base_model\.model\.score\.weight"):
        load_adapter(model, "reward", tmp_path)
    assert "reward" not in model.peft_config


def test_gaps_and_other_shapes_are_refused(tiny_llama: Path, tmp_path: Path) -> None:
    model = two(tiny_llama)
    activate(model, "policy", train=True)
    save_adapter(model, "policy", tmp_path)
    weights = read_weights(tmp_path)
    first = min(weights)

    save_file({k: v for k, v in weights.items() if k != first}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(IntegrityError, match="missing tensor"):
        load_adapter(model, "again", tmp_path)
    save_file(weights | {first: torch.zeros(3, 3)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(IntegrityError, match=r"has shape \(3, 3\), this base needs"):
        load_adapter(model, "again", tmp_path)
    save_file(weights, tmp_path / WEIGHTS_FILE)
    whole = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(whole[:-100])
    with pytest.raises(IntegrityError, match="not a whole safetensors file"):
        load_adapter(model, "again", tmp_path)
    assert sorted(model.peft_config) == ["policy", "policy_start"]
    assert active(model) == Activation("policy", train=True)


def test_a_folder_without_an_adapter_is_bad_input(tiny_llama: Path, tmp_path: Path) -> None:
    model = two(tiny_llama)
    with pytest.raises(InputError, match=r"adapter_config\.json is missing"):
        load_adapter(model, "again", tmp_path)
    (tmp_path / CONFIG_FILE).write_text('{"peft_type": "IA3"}', encoding="utf-8")
    with pytest.raises(InputError, match="only LoRA is supported"):
        load_adapter(model, "again", tmp_path)
    (tmp_path / CONFIG_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="unreadable adapter configuration"):
        load_adapter(model, "again", tmp_path)


def test_removing_adapters_down_to_the_last(tiny_llama: Path) -> None:
    fresh = logits(base(tiny_llama))
    model = two(tiny_llama)
    activate(model, "policy", train=True)
    remove_adapter(model, "policy_start")
    assert active(model) == Activation("policy", train=True)
    remove_adapter(model, "policy")
    assert active(model) == Activation(None)
    assert torch.equal(logits(causal_model(model)), fresh)
    add_adapter(model, "policy", lora(), seed=1)
    activate(model, "policy", train=True)
    loss(model).backward()
    assert any(gradient is not None for gradient in gradients(model, "policy"))


def test_names_that_peft_would_mistake_are_refused(tiny_llama: Path) -> None:
    model = two(tiny_llama)
    for name in ("", "a.b", "lora_x"):
        with pytest.raises(ValueError, match="cannot name an adapter"):
            add_adapter(model, name, lora(), seed=1)
    with pytest.raises(ValueError, match="already"):
        add_adapter(model, "policy", lora(), seed=1)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["nope"], "lora.targets: the base has no module 'nope'; expected all-linear, or some of "),
        (["q_proj", "v_porj"], "no module 'v_porj'"),
        (["v_porj"], "did you mean 'v_proj'?"),
        (["mlp"], "lora.targets: names a LlamaMLP, which takes no adapter; expected all-linear"),
    ],
)
@pytest.mark.parametrize("adapted", [False, True])
def test_targets_that_the_base_has_not_are_bad_input(
    tiny_llama: Path, targets: list[str], said: str, adapted: bool
) -> None:
    model = base(tiny_llama)
    if adapted:
        model = add_adapter(model, "first", lora(), seed=1)
    with pytest.raises(InputError) as caught:
        add_adapter(model, "second", lora(target_modules=targets), seed=2)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    if said.endswith("some of "):
        names = "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"
        assert str(caught.value).endswith(said + names)


def test_an_adapter_of_another_family_is_bad_input(tiny_llama: Path, tmp_path: Path) -> None:
    save_adapter(two(tiny_llama), "policy", tmp_path)
    file = tmp_path / CONFIG_FILE
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"target_modules": ["query_key_value"]}))
    with pytest.raises(InputError, match=r"target_modules: is for another base: this one has no"):
        load_adapter(base(tiny_llama), "policy", tmp_path)
    # Names of several families, as some publish them, are no reason to refuse it.
    file.write_text(
        json.dumps(config | {"target_modules": [*config["target_modules"], "query_key_value"]})
    )
    load_adapter(base(tiny_llama), "policy", tmp_path)


@pytest.mark.parametrize(
    ("layers", "hidden", "told"),
    [
        (2, 32, r"lora_A\.weight has shape \(4, 64\), this one needs \(4, 32\)"),
        (1, 64, r"it adapts base_model\.model\.model\.layers\.1\."),
        (3, 64, r"it does not adapt base_model\.model\.model\.layers\.2\."),
    ],
)
def test_another_bases_shapes_are_bad_input(
    tiny_llama: Path, tmp_path: Path, layers: int, hidden: int, told: str
) -> None:
    by_name = lora(target_modules=["q_proj", "v_proj"])  # in whatever layers there are
    save_adapter(add_adapter(base(tiny_llama), "policy", by_name, seed=1), "policy", tmp_path)
    config = AutoConfig.from_pretrained(tiny_llama)
    config.num_hidden_layers, config.hidden_size, config.head_dim = layers, hidden, hidden // 4
    other = AutoModelForCausalLM.from_config(config)
    model = add_adapter(other, "mine", lora(), seed=1)
    with pytest.raises(InputError, match=rf"is for another base: .*{told}.*expected that of "):
        load_adapter(model, "policy", tmp_path)
    assert sorted(model.peft_config) == ["mine"]
    # The same tensors with a gap are damage, on whatever base.
    weights = read_weights(tmp_path)
    save_file({k: v for k, v in weights.items() if k != min(weights)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(IntegrityError):
        load_adapter(model, "policy", tmp_path)


def test_an_experts_adapter_is_two_and_both_are_trained_kept_and_removed(
    family_base: Callable[..., Path], tmp_path: Path
) -> None:
    model = add_adapter(base(family_base("mixtral")), "policy", lora(), seed=1)
    before = logits(model)
    weights = adapter_weights(model, "policy")
    experts = "base_model.model.model.layers.0.mlp.experts"
    named = {name for name in weights if name.startswith(experts)}
    inner = {f"{experts}.base_layer.lora_{side}.weight" for side in "AB"}
    assert named == inner | {f"{experts}.lora_{side}.weight" for side in "AB"}
    for name in named:
        assert weights[name].dtype == torch.float32
    activate(model, "policy", train=True)
    trained = {p for p in model.parameters() if p.requires_grad}
    assert trained == {*weights.values()}
    randomise(model, "policy", 10)
    after = logits(model)
    for name in inner:
        with torch.no_grad():
            weights[name].zero_()
    assert not torch.allclose(logits(model), after, atol=1e-3)  # it computes
    randomise(model, "policy", 10)
    copy_adapter(model, "policy", "value")
    save_adapter(model, "value", tmp_path)
    activate(model, None)
    assert torch.equal(logits(model), before)
    remove_adapter(model, "value")
    remove_adapter(model, "policy")
    assert not [name for name, _ in model.named_parameters() if "lora_" in name]
    again = load_adapter(base(family_base("mixtral")), "policy", tmp_path, trainable=True)
    assert list(adapter_weights(again, "policy")) == list(weights)
    torch.testing.assert_close(logits(again), after)


def test_settings_that_experts_cannot_have_are_bad_input(
    family_base: Callable[..., Path],
) -> None:
    with pytest.raises(InputError, match=r"lora: peft cannot adapt this base: .*lora_dropout"):
        add_adapter(base(family_base("mixtral")), "policy", lora(lora_dropout=0.1), seed=1)
