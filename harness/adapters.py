"""Many LoRA adapters on one base.

The base is never trained and nothing is merged into it; a policy, its reference, a value function
and every reward-model member are adapters that take turns. Two rules follow, which nothing in
PyTorch enforces (tests show what happens otherwise):

- A forward and its backward finish before another adapter is activated. Switching in between
  gives the first adapter a gradient of exactly zero, because ``activate`` clears its
  ``requires_grad``; under gradient checkpointing the recomputation runs through the wrong adapter,
  which is an error at best and a wrong gradient at worst.
- Heads are stored apart, never as part of an adapter. Loading is strict: a missing or unexpected
  tensor is an ``IntegrityError``, where peft would only warn.

Tensors are addressed by layer, not by searching names in keys: peft's own state dict takes every
key that contains the adapter's name, so ``policy`` would also catch ``policy_start``.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from harness.errors import InputError, IntegrityError, nearest

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
# One LoRA is these containers of a layer, each a dict by adapter name.
_CONTAINERS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector")
_PART = re.compile(rf"(?P<layer>.+)\.(?P<part>(?:{'|'.join(_CONTAINERS)})(?:\.\w+)?)")


@dataclass(frozen=True, slots=True)
class Activation:
    """Which adapter computes (None: the base alone) and whether its weights take gradients."""

    name: str | None
    train: bool = False


def add_adapter(
    model: PreTrainedModel | PeftModel, name: str, lora: LoraConfig, *, seed: int
) -> PeftModel:
    """Add a new adapter whose output is zero (B = 0) and whose A is drawn from ``seed`` alone.

    The first adapter wraps a plain model and freezes it; use the returned model from then on.
    Weights are float32, whatever the base is: in bfloat16 most entries do not move at the learning
    rates of RLHF. What is active stays active (the base alone, after the first): call ``activate``.
    The caller's random state is neither read nor changed.

    Raises ``InputError`` where a module that is named does not exist, or takes no adapter, or none
    with these settings (a mixture's experts, none with dropout).
    """
    _check_name(model, name)
    missing = _missing_targets(model, lora)
    if missing:
        names = _linear_names(model)
        raise InputError(
            f"the base has no module {missing[0]!r}",
            field="lora.targets",
            expected=f"all-linear, or some of {', '.join(names)}",
            nearest=nearest(missing[0], names),
        )
    try:
        return _added(model, name, lora, seed=seed)
    except ValueError as error:
        found = re.match(r"Target module (\w+)", str(error))
        if found is None:
            raise InputError(f"peft cannot adapt this base: {error}", field="lora") from error
        raise InputError(
            f"names a {found[1]}, which takes no adapter",
            field="lora.targets",
            expected=f"all-linear, or some of {', '.join(_linear_names(model))}",
        ) from error


def _added(
    model: PreTrainedModel | PeftModel, name: str, lora: LoraConfig, *, seed: int
) -> PeftModel:
    _check_name(model, name)
    before = active(model) if isinstance(model, PeftModel) else Activation(None)
    training = model.training
    lora = copy.deepcopy(lora)  # peft writes resolved names into the one it is given
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            # peft 0.21 looks for the names of parameters, which it has adapted, among the modules.
            warnings.filterwarnings("ignore", ".*_pattern keys did not match.*", RuntimeWarning)
            # It finds out itself that GPT-2's matrices are transposed.
            warnings.filterwarnings("ignore", ".*fan_in_fan_out is set to False.*")
            if isinstance(model, PeftModel):
                model.add_adapter(name, lora)
            else:
                model.requires_grad_(False)
                # It asks transformers for a deprecated name.
                warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*")
                model = get_peft_model(model, lora, adapter_name=name)
    for weight in adapter_weights(model, name).values():
        weight.data = weight.data.float()
    activate(model, before.name, train=before.train)
    model.train(training)  # new modules would drop out while the model around them does not
    return model


def load_adapter(
    model: PreTrainedModel | PeftModel, name: str, folder: Path, *, trainable: bool = False
) -> PeftModel:
    """Add the adapter stored in ``folder``, and activate it for training if ``trainable``.

    Raises ``InputError`` for a folder that holds no adapter or another base's, of other modules
    or shapes than this one has; ``IntegrityError`` where its tensors are not exactly those that its
    configuration calls for (a reward adapter with its head on a causal model, a truncated file).
    """
    config = read_config(folder)
    config.modules_to_save = None  # whole modules (a head) would be tensors that we refuse below
    config.task_type = "CAUSAL_LM"
    stored = read_weights(folder)
    # Public adapters may name modules of several families: one that is there is enough.
    missing = _missing_targets(model, config)
    if missing and len(missing) == len(config.target_modules or ()):
        raise InputError(
            f"is for another base: this one has no module {missing[0]!r}",
            path=folder / CONFIG_FILE,
            field="target_modules",
        )
    model = _added(model, name, config, seed=0)
    try:
        difference = _of_another_base(adapter_weights(model, name), stored)
        if difference is not None:
            raise InputError(
                f"is for another base: {difference}",
                path=folder / WEIGHTS_FILE,
                expected=f"that of {config.base_model_name_or_path}"
                if config.base_model_name_or_path
                else None,
            )
        _fill(model, name, stored, origin=str(folder / WEIGHTS_FILE))
    except (InputError, IntegrityError):
        remove_adapter(model, name)
        raise
    if trainable:
        activate(model, name, train=True)
    return model


def copy_adapter(
    model: PeftModel, source: str, target: str, *, trainable: bool = False
) -> PeftModel:
    """Add ``target`` with the weights of ``source``, and activate it if ``trainable``."""
    weights = {key: tensor.detach().clone() for key, tensor in _known(model, source).items()}
    model = _added(model, target, _config(model, source), seed=0)
    _fill(model, target, weights, origin=source)
    if trainable:
        activate(model, target, train=True)
    return model


def save_adapter(model: PeftModel, name: str, folder: Path) -> None:
    """Write the adapter into an existing folder, in the form that plain peft loads.

    The bytes are a function of the weights and the configuration alone (peft's own
    ``save_pretrained`` writes its sets in hash order, which differs from process to process).
    """
    weights = {
        key: tensor.detach().to("cpu", copy=True).contiguous()
        for key, tensor in _known(model, name).items()
    }
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {
        key: sorted(value) if isinstance(value, set | frozenset) else value
        for key, value in _config(model, name).to_dict().items()
    } | {"inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def activate(model: PeftModel, name: str | None, *, train: bool = False) -> None:
    """Let ``name`` compute, or the base alone (None).

    Of all adapters' weights exactly those of ``name`` get ``requires_grad = train`` and all others
    false. Weights that are no adapter's (the base, a head) are not touched.
    """
    if name is not None:
        _check_known(model, name)
    if name is None and train:
        raise ValueError("the base alone has nothing to train")
    for _, layer in _layers(model):
        layer._disable_adapters = name is None
        if name is not None:
            layer._active_adapter = [name]
        for container in _CONTAINERS:
            for owner, part in getattr(layer, container, {}).items():
                wanted = train and owner == name
                for weight in _weights(part):
                    if weight.requires_grad is not wanted:
                        weight.requires_grad_(wanted)
    model._adapters_disabled = name is None
    if name is None and model.active_adapter not in model.peft_config:
        # It was removed. peft looks up the configuration of the active one even when none computes.
        name = next(iter(model.peft_config), None)
    if name is not None:
        model.active_adapter = name
        model.base_model.active_adapter = name  # type: ignore[assignment]


def active(model: PeftModel) -> Activation:
    """What ``activate`` was last called with."""
    for _, layer in _layers(model):
        if layer.disable_adapters:
            return Activation(None)
        for name in layer.active_adapters:
            if name in layer.lora_A:
                weights = [*layer.lora_A[name].parameters()]
                return Activation(name, train=weights[0].requires_grad)
    return Activation(None)


@contextmanager
def using(model: PeftModel, name: str | None, *, train: bool = False) -> Iterator[None]:
    """Activate ``name`` and put back what was active before, also after an error.

    The rule above holds for the outer adapter too: no backward of its graph may be pending.
    """
    before = active(model)
    activate(model, name, train=train)
    try:
        yield
    finally:
        activate(model, before.name, train=before.train)


def remove_adapter(model: PeftModel, name: str) -> None:
    """Delete an adapter; if it was active, the base alone is active afterwards.

    With none left, peft's wrapper cannot be called until one is added (it looks up the active
    one's configuration even when none computes); ``models.causal_model(model)`` can.
    """
    _check_known(model, name)
    before = active(model)
    if before.name == name:
        before = Activation(None)
    others = [other for other in model.peft_config if other != name]
    if others:  # peft warns when the active one goes
        activate(model, others[0])
    model.delete_adapter(name)
    activate(model, before.name, train=before.train)


def adapter_weights(model: PeftModel, name: str) -> dict[str, nn.Parameter]:
    """The adapter's parameters themselves, under the names that peft stores them by."""
    weights: dict[str, nn.Parameter] = {}
    for path, layer in _layers(model):
        for container in _CONTAINERS:
            parts = getattr(layer, container, {})
            if name not in parts:
                continue
            part = parts[name]
            if container == "lora_magnitude_vector":  # DoRA; a module that peft names as a tensor
                weights[f"{path}.{container}"] = part.weight
            elif isinstance(part, nn.Module):
                for leaf, weight in part.named_parameters():
                    weights[f"{path}.{container}.{leaf}"] = weight
            else:
                weights[f"{path}.{container}"] = part
    return weights


def adapter_hash(model_or_state: PeftModel | Mapping[str, Tensor], name: str = "") -> str:
    """sha256 (hex) over the sorted tensors' names, types, shapes and bytes.

    For an adapter in memory it equals ``hash_file`` of the folder that it was saved to.
    """
    state: Mapping[str, Tensor] = (
        _known(model_or_state, name) if isinstance(model_or_state, PeftModel) else model_or_state
    )
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().to("cpu").contiguous()
        digest.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def hash_file(folder: Path) -> str:
    """``adapter_hash`` of the adapter stored in ``folder``."""
    return adapter_hash(read_weights(folder))


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a stored adapter, on the CPU, by peft's names."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise InputError(f"no adapter here: {WEIGHTS_FILE} is missing", path=folder)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"{path}: not a whole safetensors file: {error}") from error


def read_config(folder: Path) -> LoraConfig:
    """The configuration of a stored LoRA adapter; ``InputError`` for anything else."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"no adapter here: {CONFIG_FILE} is missing", path=folder)
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"unreadable adapter configuration: {error}", path=path) from error
    if not isinstance(config, LoraConfig):
        raise InputError(f"a {config.peft_type} adapter; only LoRA is supported", path=path)
    return config


def _weights(part: nn.Module | nn.Parameter) -> Iterable[nn.Parameter]:
    """An adapter's in one layer. ``parameters()`` walks a tree for each, and PPO activates an
    adapter seventeen times an iteration."""
    if not isinstance(part, nn.Module):
        return (part,)
    if part._modules:
        return part.parameters()
    return [weight for weight in part._parameters.values() if weight is not None]


def _layers(model: Any, path: str = "") -> Iterator[tuple[str, LoraLayer]]:
    """The adapted layers in the model's order, without descending into each one's adapters.

    A module of which several parameters are adapted, as a mixture's experts are, is wrapped once
    for each, one wrapper inside the other.
    """
    if isinstance(model, LoraLayer):
        yield path, model
        inner: Any = model.base_layer
        if isinstance(inner, LoraLayer):
            yield from _layers(inner, f"{path}.base_layer")
        return
    for name, child in model.named_children():
        yield from _layers(child, f"{path}.{name}" if path else name)


def _missing_targets(model: nn.Module, lora: LoraConfig) -> list[str]:
    """The modules that the configuration lists and the model has not; a pattern lists none."""
    targets = lora.target_modules
    if targets is None or isinstance(targets, str):
        return []
    paths = [f".{path}" for path, _ in model.named_modules()]
    return sorted(t for t in targets if not any(path.endswith(f".{t}") for path in paths))


def _linear_names(model: nn.Module) -> list[str]:
    """The last names of the model's linear layers, adapted or not, in its order."""
    found: dict[str, None] = {}
    for name, child in model.named_children():
        if isinstance(child, nn.Linear | LoraLayer):
            found[name] = None
        else:
            found.update(dict.fromkeys(_linear_names(child)))
    return list(found)


def _fill(model: PeftModel, name: str, stored: Mapping[str, Tensor], *, origin: str) -> None:
    """Copy ``stored`` into the adapter, or raise ``IntegrityError`` naming what does not fit."""
    own = adapter_weights(model, name)
    for problem, keys in (
        ("missing", own.keys() - stored.keys()),
        ("unexpected", stored.keys() - own.keys()),
    ):
        if keys:
            listed = sorted(keys)
            more = f" and {len(listed) - 1} more" if len(listed) > 1 else ""
            raise IntegrityError(f"{origin}: {problem} tensor {listed[0]}{more}")
    for key, parameter in own.items():
        if stored[key].shape != parameter.shape:
            raise IntegrityError(
                f"{origin}: {key} has shape {tuple(stored[key].shape)}, "
                f"this base needs {tuple(parameter.shape)}"
            )
    with torch.no_grad():
        for key, parameter in own.items():
            parameter.copy_(stored[key])


def _of_another_base(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> str | None:
    """In what the base of a stored adapter, which is whole and of the same rank, differs from the
    one here; None where it does not differ, or the adapter is not whole."""
    here, there = _by_layer(own), _by_layer(stored)
    if (
        here is None
        or there is None
        or {*map(frozenset, there.values())} - {*map(frozenset, here.values())}
    ):
        return None
    for path in sorted(there.keys() ^ here.keys()):
        return f"it adapts {path}" if path in there else f"it does not adapt {path}"
    for path, parts in here.items():
        for part, weight in parts.items():
            wanted, found = tuple(weight.shape), tuple(there[path][part].shape)
            at = {"A": 0, "B": 1}.get(part.split(".")[0][-1])  # of the rank
            if len(wanted) != len(found) or (at is not None and wanted[at] != found[at]):
                return None
            if wanted != found:
                return f"{path}.{part} has shape {found}, this one needs {wanted}"
    return None


def _by_layer(weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]] | None:
    """An adapter's tensors, layer by layer; None if one is no part of a LoRA."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, weight in weights.items():
        found = _PART.fullmatch(key)
        if found is None:
            return None
        layers.setdefault(found["layer"], {})[found["part"]] = weight
    return layers


def _config(model: PeftModel, name: str) -> LoraConfig:
    config: Any = model.peft_config[name]
    return config


def _known(model: PeftModel, name: str) -> dict[str, nn.Parameter]:
    _check_known(model, name)
    return adapter_weights(model, name)


def _check_known(model: PeftModel, name: str) -> None:
    if name not in model.peft_config:
        raise KeyError(f"no adapter {name!r}; there are: {', '.join(sorted(model.peft_config))}")


def _check_name(model: PreTrainedModel | PeftModel, name: str) -> None:
    if not name or "." in name or "lora_" in name:  # a module's name may hold no dot
        raise ValueError(f"{name!r} cannot name an adapter")
    if isinstance(model, PeftModel) and name in model.peft_config:
        raise ValueError(f"there is an adapter {name!r} already")
