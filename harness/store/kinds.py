"""The kinds of stages that a run's ``checkpoint.json`` and ``schedule.yaml`` name.

Here because both sides need them: trainers, which write a run, and readers that can train nothing.
"""

from __future__ import annotations

REWARD = "reward"  # trains reward models, whose checkpoints are never evaluated as policies
# Trained to score high with reward models (context distillation: by what they prefer), or on the
# preferences themselves: their policy moves away from its start for the sake of a proxy.
PROXY_KINDS = frozenset({"rejection_sampling", "context_distillation", "ppo", "rloo", "dpo"})
# The stages that gates watch unless they name others: those after which answers may get worse.
# Ghost Attention trains on replies of the policy too, but no reward chooses them.
RL_KINDS = PROXY_KINDS | {"ghost_attention"}
POLICY_KINDS = RL_KINDS | {"sft"}
