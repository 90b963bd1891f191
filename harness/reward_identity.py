"""By what a reward is known: everything that its number depends on besides the reply, by content.

Two rewards of one identity are the same number. It is stored with what was measured by the reward,
so that a number of another reward is not taken for one of this.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.adapters import CONFIG_FILE, adapter_hash, hash_file
from harness.normalisation import NORMALISATION_FILE
from harness.reward_models import RewardModel, Rule, read_head

# Of an adapter's configuration: where its base lay and who wrote it, not what it computes.
_INCIDENTAL = ("base_model_name_or_path", "peft_version", "revision")


def reward_identity(reward_models: Sequence[RewardModel], rule: Rule) -> dict[str, Any]:
    """JSON: a digest of each member, by reward model, and the rule; no rule without reward models.

    Raises ``InputError`` or ``IntegrityError`` for a member that cannot be read.
    """
    return {
        "reward_models": {
            model.name: [member_digest(folder) for folder in model.members]
            for model in reward_models
        },
        "reward_rule": asdict(rule) if reward_models else None,
    }


def member_digest(folder: Path) -> str:
    """sha256 (hex) of a member: the tensors of adapter and head, the adapter's configuration, and
    the scale of its scores if it has one. How files are written down does not count, nor what else
    is in the folder."""
    scale = folder / NORMALISATION_FILE
    configuration = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    content = {
        "adapter": hash_file(folder),
        "configuration": {k: v for k, v in configuration.items() if k not in _INCIDENTAL},
        "head": adapter_hash({"weight": read_head(folder)}),
        "normalisation": json.loads(scale.read_text(encoding="utf-8")) if scale.is_file() else None,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
