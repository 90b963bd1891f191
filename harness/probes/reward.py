"""What the training optimises, measured on held-out prompts, and the cheap signs of collapse.

Replies are sampled at temperature 1, because the KL divergence and what PPO sees are about the
policy as it samples, not about its most likely reply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from harness.chat import user
from harness.judges.rubric import ngrams
from harness.judges.text import fold, words
from harness.probes.protocol import (
    Ask,
    Converse,
    LogProbs,
    Metric,
    Options,
    Reply,
    Rewards,
    RewardScores,
    Row,
    Sample,
    Score,
    Unscored,
)


class RewardOptions(Options):
    """Card options of a set of held-out prompts."""


class RewardRow(Row):
    """A prompt from the distribution of the RL prompts."""

    prompt: str = Field(min_length=1, description="What the user asks.")
    safety: bool = Field(False, description="Is it a safety prompt? The reward rule asks.")


class RewardProbe:
    """Proxy reward, ensemble spread, KL from the reference, and signs of collapse."""

    name: ClassVar[str] = "reward"
    row_model: ClassVar[type[Row]] = RewardRow
    options_model: ClassVar[type[Options]] = RewardOptions

    def __init__(self, options: RewardOptions) -> None:
        self.options = options

    def metrics(
        self, rows: Sequence[RewardRow], reward_models: Sequence[str] = ()
    ) -> tuple[Metric, ...]:
        rewards: frozenset[Literal["judge", "rewards", "reference"]] = frozenset({"rewards"})
        reference: frozenset[Literal["judge", "rewards", "reference"]] = frozenset({"reference"})
        return (
            Metric(
                "proxy",
                "mean",
                "neither",
                "Combined reward (logit) that PPO would give, before whitening and KL.",
                rewards,
            ),
            Metric(
                "spread",
                "mean",
                "neither",
                "Standard deviation over the members of the reward model that spoke.",
                rewards,
                low=0.0,
            ),
            *(
                Metric(
                    score_name(name),
                    "mean",
                    "neither",
                    f"Mean over the members of reward model {name!r} (logit).",
                    rewards,
                )
                for name in reward_models
            ),
            Metric(
                "kl",
                "mean",
                "neither",
                "Σ log π − log π_ref over a sampled reply, end token included (nats).",
                reference,
            ),
            Metric("kl_token", "pooled", "neither", "The same a token (nats).", reference),
            Metric("length", "mean", "neither", "Generated tokens a reply.", low=0.0),
            Metric(
                "distinct_3",
                "pooled",
                "higher",
                "Distinct trigrams of words among all trigrams of all replies.",
                low=0.0,
                high=1.0,
            ),
            Metric(
                "no_eos",
                "proportion",
                "lower",
                "Replies cut off by the length limit.",
                low=0.0,
                high=1.0,
            ),
            Metric(
                "top_share",
                "proportion",
                "lower",
                "Share of the commonest completion among all replies.",
                low=0.0,
                high=1.0,
            ),
        )

    def converse(self, row: RewardRow) -> Converse:
        prompt = (user(row.prompt),)
        reply: Reply = yield Ask(prompt, temperature=1.0)
        stopped = reply.finish_reason == "stop"
        yield Score("length", float(len(reply.token_ids)))
        yield Score("no_eos", float(not stopped))
        scored: RewardScores | Unscored = yield Rewards(prompt, reply, row.safety)
        if isinstance(scored, Unscored):
            yield Unscored("proxy", scored.reason)
            yield Unscored("spread", scored.reason)
        else:
            members = {name: list(values) for name, values in scored.members.items()}
            yield Score("proxy", scored.combined, detail={"members": members})
            yield Score("spread", scored.spread)
            for name, values in scored.members.items():
                yield Score(score_name(name), sum(values) / len(values))
        tokens = len(reply.token_ids) + stopped
        reference: tuple[float, ...] | Unscored = yield LogProbs(
            prompt, reply.token_ids, of="reference", with_eos=stopped
        )
        if isinstance(reference, Unscored) or not tokens:
            reason = reference.reason if isinstance(reference, Unscored) else "no tokens"
            yield Unscored("kl", reason)
            yield Unscored("kl_token", reason)
            return
        policy: tuple[float, ...] = yield LogProbs(prompt, reply.token_ids, with_eos=stopped)
        kl = sum(policy) - sum(reference)
        yield Score("kl", kl)
        yield Score("kl_token", kl / tokens, weight=float(tokens))

    def over_set(
        self, rows: Sequence[RewardRow], samples: Sequence[Sample]
    ) -> Sequence[tuple[int, Score | Unscored]]:
        """``distinct_3`` and ``top_share``, which are about all replies together.

        Both are booked row by row so that they have intervals: a trigram that occurs c times in
        the set gives 1/c to each occurrence (the sum over rows is the number of distinct ones),
        and a row has 1 for ``top_share`` if its reply is the commonest one.
        """
        asked = [i for i, sample in enumerate(samples) if sample.replies]
        texts = {i: samples[i].replies[0].text for i in asked}
        grams = {i: ngrams(words(text), 3) for i, text in texts.items()}
        occurs = Counter(gram for found in grams.values() for gram in found)
        folded = {i: fold(text) for i, text in texts.items()}
        commonest = Counter(folded.values()).most_common(1)
        found: list[tuple[int, Score | Unscored]] = []
        for i in asked:
            found.append((i, Score("top_share", float(folded[i] == commonest[0][0]))))
            if grams[i]:
                share = sum(1.0 / occurs[gram] for gram in grams[i]) / len(grams[i])
                found.append((i, Score("distinct_3", share, weight=float(len(grams[i])))))
        return found


def score_name(reward_model: str) -> str:
    """The metric of one reward model's own mean: ``score_helpfulness``."""
    return f"score_{reward_model}"
