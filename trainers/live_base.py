"""The base model of a run, held in memory once, with everything that trains and is measured on it.

A 7B base is not read again every epoch: the stages and the evaluations share one, and each puts
its adapters on it. What is evaluated is read back from the checkpoint just committed and compared
with its bytes, so that a number always belongs to the file that carries its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from harness.adapters import activate, adapter_hash, hash_file, load_adapter, remove_adapter, using
from harness.engines.local import LocalEngine
from harness.errors import IntegrityError
from harness.evaluate import evaluate
from harness.evaluation import Evaluation
from harness.reward_models import RewardModel, RewardScorer, Rule
from harness.store.commit import is_committed
from trainers import ppo, rejection_sampling, reward, sft
from trainers.runner import Progress
from trainers.schedule import AnyStage, PpoStage, RejectionSamplingStage, RewardRule
from trainers.stage import Checkpoint, StageContext, Trainer

if TYPE_CHECKING:
    from harness.models import LoadedModel
    from harness.probes.protocol import LogProbs
    from harness.store.run import Run
    from trainers.validation import Resolved

TRAINERS: Mapping[str, Trainer] = {
    "sft": sft.checkpoints,
    "reward": reward.checkpoints,
    "rejection_sampling": rejection_sampling.checkpoints,
    "ppo": ppo.checkpoints,
}
