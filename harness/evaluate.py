"""Put one checkpoint through one eval set and commit what came of it.

The generators of all rows run side by side. Their pending asks are gathered into one call of the
engine; every reply is fed back as soon as it is there, so a row that is done is written down at
once while the others go on. After a kill the rows that were written down are not asked again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from harness.chat import Conversation
from harness.engines.protocol import Engine, Request
from harness.errors import InputError
from harness.evalsets import EvalSet
from harness.evaluation import SCHEMA, SetEvaluation
from harness.probes import available_metrics, make_probe
from harness.probes.protocol import (
    Ask,
    Converse,
    LogProbs,
    Probe,
    Reply,
    Rewards,
    RewardScores,
    Row,
    Sample,
    Score,
    Unscored,
)
from harness.samples import JOURNAL, PARQUET, Journal, total_tokens, write_parquet
from harness.store.atomic import make_folder, write_json
from harness.store.commit import commit, is_committed
from harness.summary import summarise

__all__ = ["Reference", "Scorer", "available_metrics", "evaluate", "log_probs"]

# Rows in flight: enough for full batches, few enough that a kill costs little.
WINDOW = 512

Reference = Callable[[list[LogProbs]], list[tuple[float, ...]]]
Progress = Callable[[int, int], None]  # rows finished, rows in all


class LocalEngine(Engine, Protocol):
    """What evaluating needs of an engine beyond generating."""

    max_new_tokens: int
    eos_ids: tuple[int, ...]


class Scorer(Protocol):
    """``harness.reward_models.RewardScorer``, as far as it is used here."""

    def score_tokens(self, input_ids: Sequence[Sequence[int]]) -> Mapping[str, Any]: ...

    def combined(self, scores: Mapping[str, Any], safety: Sequence[bool]) -> Any: ...


def evaluate(
    engine: LocalEngine,
    evalset: EvalSet,
    *,
    out: Path,
    seed: int,
    checkpoint: str,
    identity: Mapping[str, Any],
    rewards: Scorer | None = None,
    reference: Reference | None = None,
    progress: Progress | None = None,
) -> SetEvaluation:
    """Evaluate the model in ``engine`` and commit the folder ``out``; a committed one is only read.

    Args:
        seed: of the sampling; see ``harness/engines/sampling.py``.
        checkpoint: the name that the results are filed under.
        identity: JSON that names the model by content (hashes of base and adapter). A committed
            folder of another identity or seed is an ``InputError``, not an answer; half-finished
            rows of another one, or of another engine, are dropped.
        rewards: reward models, for the probes that ask for them; without, those metrics are left
            out.
        reference: log-probabilities under the policy that the stage started from, for KL.
        progress: called with the rows finished and the rows in all.
    """
    if is_committed(out):
        return _committed(out, evalset, seed, identity)
    started = time.monotonic()
    make_folder(out)
    probe = make_probe(evalset)
    names = list(rewards.score_tokens([])) if rewards is not None else []  # of the reward models
    metrics = available_metrics(evalset, False, names or False, reference is not None)
    header = {
        "set": evalset.name,
        "hash": evalset.hash,
        "checkpoint": checkpoint,
        "seed": seed,
        "identity": dict(identity),
        "engine": dict(engine.identity),
    }
    total = len(evalset.rows)
    with Journal(out / JOURNAL, header) as journal:
        kept = len(journal.samples)
        waiting = [row for row in evalset.rows if row.id not in journal.samples]
        answers = _Answers(engine, seed, rewards, reference)
        if progress is not None:
            progress(kept, total)
        for start in range(0, len(waiting), WINDOW):
            for sample in _converse(probe, waiting[start : start + WINDOW], answers):
                journal.append(sample)
                if progress is not None:
                    progress(len(journal.samples), total)
    samples = [journal.samples[row.id] for row in evalset.rows]
    _score_set(probe, evalset.rows, samples)
    summary = {
        "schema": SCHEMA,
        "set": evalset.name,
        "version": evalset.card.version,
        "hash": evalset.hash,
        "probe": evalset.card.probe,
        "checkpoint": checkpoint,
        "seed": seed,
        "identity": dict(identity),
        "engine": dict(engine.identity),
        "rows": total,
        "tokens": total_tokens(samples),
        "resumed_rows": kept,
        **summarise(metrics, evalset.rows, samples, evalset.splits),
    }
    write_parquet(out / PARQUET, evalset.rows, samples, evalset.splits)
    summary["seconds"] = round(time.monotonic() - started, 3)
    write_json(out / "summary.json", summary)
    commit(out, scratch=(JOURNAL,))
    return SetEvaluation.open(out)


def log_probs(engine: LocalEngine, requests: Sequence[LogProbs]) -> list[tuple[float, ...]]:
    """Answer requests with the adapter that is active now.

    A ``Reference`` is this function with another adapter active.
    """
    found: list[tuple[float, ...]] = [()] * len(requests)
    for temperature in {request.temperature for request in requests}:
        chosen = [i for i, request in enumerate(requests) if request.temperature == temperature]
        values = engine.log_probs(
            [requests[i].prompt_ids or engine.tokenize(requests[i].messages) for i in chosen],
            [_with_end(engine, requests[i].token_ids, requests[i].with_eos) for i in chosen],
            temperature=temperature,
        )
        for i, row in zip(chosen, values, strict=True):
            found[i] = tuple(row.tolist())
    return found


class _Live:
    """A row whose conversation is under way."""

    __slots__ = ("asked", "asks", "conversation", "replies", "row", "sample", "shown", "together")

    def __init__(self, row: Row, conversation: Converse) -> None:
        self.row = row
        self.conversation = conversation
        self.sample = Sample(row.id)
        self.asks = 0
        self.shown = 0  # messages of the trunk that the transcript has
        self.together = False  # whether a tuple was asked, and a tuple is the answer
        self.asked: tuple[Ask, ...] = ()
        self.replies: dict[int, Reply] = {}  # to ``asked``, as they come in


class _Answers:
    """Answers gathered requests: asks one by one as they finish, the rest a batch at a time."""

    def __init__(
        self, engine: LocalEngine, seed: int, rewards: Scorer | None, reference: Reference | None
    ) -> None:
        self.engine = engine
        self.seed = seed
        self.rewards = rewards
        self.reference = reference
        self._prompts: dict[Conversation, tuple[int, ...]] = {}

    def replies(self, asks: list[tuple[_Live, int]]) -> Iterator[tuple[int, Reply]]:
        requests = []
        for live, number in asks:
            ask = live.asked[number]
            requests.append(
                Request(
                    f"{live.row.id}/{live.asks}",
                    self.prompt(ask.messages),
                    ask.temperature,
                    ask.max_new_tokens or self.engine.max_new_tokens,
                )
            )
            live.asks += 1
        return self.engine.generate(requests, seed=self.seed)

    def log_probs(self, requests: list[LogProbs]) -> list[tuple[float, ...] | Unscored]:
        answers: list[tuple[float, ...] | Unscored] = [Unscored("kl", "no reference")] * len(
            requests
        )
        known = [replace(r, prompt_ids=self.prompt(r.messages)) for r in requests]
        policy = [i for i, request in enumerate(known) if request.of == "policy"]
        for i, found in zip(
            policy, log_probs(self.engine, [known[i] for i in policy]), strict=True
        ):
            answers[i] = found
        asked = [i for i, request in enumerate(known) if request.of == "reference"]
        if self.reference is not None and asked:
            for i, found in zip(asked, self.reference([known[i] for i in asked]), strict=True):
                answers[i] = found
        return answers

    def scores(self, requests: list[Rewards]) -> list[RewardScores | Unscored]:
        if self.rewards is None:
            return [Unscored("proxy", "no reward models")] * len(requests)
        found = self.rewards.score_tokens(
            [
                self.prompt(request.messages)
                + _with_end(
                    self.engine, request.reply.token_ids, request.reply.finish_reason == "stop"
                )
                for request in requests
            ]
        )
        combined = self.rewards.combined(found, [request.safety for request in requests])
        members = {name: scores.T.tolist() for name, scores in found.items()}
        return [
            RewardScores({name: tuple(rows[i]) for name, rows in members.items()}, reward, spread)
            for i, (reward, spread) in enumerate(
                zip(combined.reward.tolist(), combined.spread.tolist(), strict=True)
            )
        ]

    def prompt(self, messages: Conversation) -> tuple[int, ...]:
        found = self._prompts.get(messages)
        if found is None:
            found = self._prompts[messages] = self.engine.tokenize(messages)
        return found


def _converse(probe: Probe, rows: Sequence[Row], answers: _Answers) -> Iterator[Sample]:
    """Run the rows' conversations side by side; each sample as soon as it is finished."""
    asks: list[tuple[_Live, int]] = []
    odds: list[tuple[_Live, LogProbs]] = []
    rewards: list[tuple[_Live, Rewards]] = []

    def advance(live: _Live, answer: Any) -> bool:
        """Feed the answer and queue what is asked next; whether the row is finished."""
        try:
            step = live.conversation.send(answer)
            while isinstance(step, Score | Unscored):
                _book(live.sample, step)
                step = live.conversation.send(None)
        except StopIteration:
            return True
        except Exception as error:
            error.add_note(f"in row {live.row.id!r} of probe {probe.name!r}")
            raise
        if isinstance(step, Ask | tuple):
            live.together = isinstance(step, tuple)
            live.asked = step if isinstance(step, tuple) else (step,)
            live.replies = {}
            if any(ask.of == "judge" for ask in live.asked):
                return _fail(probe, live, "no judge")
            asks.extend((live, number) for number in range(len(live.asked)))
        elif isinstance(step, LogProbs):
            odds.append((live, step))
        else:
            rewards.append((live, step))
        return False

    for row in rows:
        live = _Live(row, probe.converse(row))
        if advance(live, None):
            yield live.sample
    while asks or odds or rewards:
        # Asks first: rows that wait for the other kinds meanwhile gather into full batches.
        if asks:
            asked, asks = asks, []
            for i, reply in answers.replies(asked):
                live, number = asked[i]
                live.replies[number] = reply
                if len(live.replies) < len(live.asked):
                    continue
                replies = tuple(live.replies[k] for k in range(len(live.asked)))
                errors = [r.text for r in replies if r.finish_reason == "error"]
                if errors:
                    _fail(probe, live, f"generation failed: {errors[0] or 'no reason given'}")
                    yield live.sample
                    continue
                for ask, answer in zip(live.asked, replies, strict=True):
                    _record(live, ask, answer)
                if advance(live, replies if live.together else replies[0]):
                    yield live.sample
        elif rewards:
            scored, rewards = rewards, []
            for (live, _), scores in zip(
                scored, answers.scores([r for _, r in scored]), strict=True
            ):
                if advance(live, scores):
                    yield live.sample
        else:
            measured, odds = odds, []
            for (live, _), found in zip(
                measured, answers.log_probs([r for _, r in measured]), strict=True
            ):
                if advance(live, found):
                    yield live.sample


def _book(sample: Sample, step: Score | Unscored) -> None:
    if isinstance(step, Score) and not math.isfinite(step.value):
        step = Unscored(step.metric, f"the value is {step.value}", step.turn)
    if isinstance(step, Score):
        sample.scores.append(step)
    else:
        sample.unscored.append(step)


def _fail(probe: Probe, live: _Live, reason: str) -> bool:
    """End the row: every metric that it has not fully scored is unscored. Returns True."""
    live.conversation.close()
    whole = {score.metric for score in live.sample.scores if score.turn is None}
    for metric in probe.metrics((live.row,)):
        if metric.name not in whole and not metric.of_clusters:
            live.sample.unscored.append(Unscored(metric.name, reason))
    return True


def _record(live: _Live, ask: Ask, reply: Reply) -> None:
    """Add what is new of the asked messages, and the reply, to the transcript."""
    branch = {"branch": True} if ask.branch else {}
    for message in ask.messages[live.shown :]:
        live.sample.transcript.append({**message.to_dict(), **branch})
    live.sample.transcript.append(
        {"role": "assistant", "content": reply.text, "finish_reason": reply.finish_reason, **branch}
    )
    live.sample.replies.append(reply)
    if not ask.branch:
        live.shown = len(ask.messages) + 1


def _score_set(probe: Probe, rows: Sequence[Row], samples: Sequence[Sample]) -> None:
    for position, step in probe.over_set(rows, samples):
        _book(samples[position], step)


def _with_end(engine: LocalEngine, ids: tuple[int, ...], ended: bool) -> tuple[int, ...]:
    return (*ids, engine.eos_ids[0]) if ended else ids


def _committed(
    out: Path, evalset: EvalSet, seed: int, identity: Mapping[str, Any]
) -> SetEvaluation:
    found = SetEvaluation.open(out)
    wanted = {"hash": evalset.hash, "seed": seed, "identity": dict(identity)}
    for key, value in wanted.items():
        if found.summary[key] != value:
            raise InputError(
                f"this folder holds an evaluation of another {key}; remove it or choose another",
                path=out / "summary.json",
                field=key,
                expected=f"{value!r}, found {found.summary[key]!r}",
            )
    return found
