"""The reward models, as they score what the policy says: planes, members, shifts, accuracy.

Everything comes from the eval set of the probe ``reward``: one sampled reply a prompt, with each
member's score in the detail of ``proxy``. Pages get cells and bins, never single replies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from dashboards.data.changes import Shift, shift
from dashboards.data.index import EvalEntry, RunIndex, View
from dashboards.data.queries import query
from dashboards.data.remembering import remembered
from dashboards.data.summaries import opened
from harness.estimates import Estimate, Items, estimate
from harness.stats import z_value
from harness.store.kinds import REWARD

FEWEST, MOST = 6, 32  # cells along a side of the plane
BINS = 40  # of a score's distribution

_MEMBERS = """
, scored as (
    select entry, row_id, category,
           unnest(list_filter(scores, lambda s: s.metric = 'proxy')) as score
    from samples where ($split = 'all' or split = $split)
)
select entry, row_id, category, score.value as proxy, score.detail as detail
from scored where score.detail is not null
"""


@dataclass(frozen=True)
class RewardPlane:
    """Replies by two scores. ``cells``: i, j (column and row of the grid, from the lower left), x0,
    x1, y0, y1, n, disagreement (mean over the replies of the standard deviation over members,
    averaged over both models); ``n`` replies in all. ``below``: the share with a negative x;
    ``spread``: the mean disagreement; both at the view's level.
    """

    x: str
    y: str
    cells: pd.DataFrame
    n: int
    below: Estimate
    spread: Estimate


def reward_entry(view: View, checkpoint: str) -> EvalEntry | None:
    """The checkpoint's evaluation by the probe ``reward``."""
    for entry in view.entries(checkpoint=checkpoint):
        found = opened(entry)
        if found is not None and found.summary.get("probe") == REWARD:
            return entry
    return None


def scored_checkpoints(view: View) -> list[str]:
    """Checkpoints whose replies were scored by reward models, in the order of training."""
    found = []
    for entry in view.entries():
        evaluation = opened(entry)
        if evaluation is not None and "proxy" in evaluation.summary["metrics"]:
            found.append(entry.checkpoint)
    return list(dict.fromkeys(found))


@remembered(64)
def member_scores(view: View, checkpoint: str) -> pd.DataFrame:
    """One row a reply: row_id, category, proxy, and a column ``model/i`` a member (logits)."""
    entry = reward_entry(view, checkpoint)
    if entry is None:
        return pd.DataFrame(columns=["row_id", "category", "proxy"])
    frame = query([entry], _MEMBERS, {"split": view.split})
    if frame.empty:
        return pd.DataFrame(columns=["row_id", "category", "proxy"])
    details = pd.json_normalize([json.loads(text) for text in frame["detail"]], sep="\n")
    found = frame[["row_id", "category", "proxy"]].reset_index(drop=True)
    for column in details.columns:
        if not column.startswith("members\n"):
            continue
        name = column.removeprefix("members\n")
        lists = details[column].map(lambda v: v if isinstance(v, list) else [])
        for member in range(max(map(len, lists), default=0)):
            found[f"{name}/{member}"] = [
                float(v[member]) if member < len(v) else np.nan for v in lists
            ]
    return found


def reward_models(view: View, checkpoint: str) -> dict[str, list[str]]:
    """Reward model -> its members' columns in ``member_scores``."""
    found: dict[str, list[str]] = {}
    for column in member_scores(view, checkpoint).columns[3:]:
        found.setdefault(column.rpartition("/")[0], []).append(column)
    return found


@lru_cache(maxsize=64)
def reward_plane(view: View, checkpoint: str) -> RewardPlane | None:
    """Helpfulness against safety (the first two models), or the first two members of one model."""
    found = _placed(view, checkpoint)
    if found is None:
        return None
    replies = found.replies
    entry = reward_entry(view, checkpoint)
    clusters = _clusters(entry) if entry is not None else {}
    ids = replies["row_id"].tolist()

    def over(values: pd.Series, kind: Literal["proportion", "mean"]) -> Estimate:
        rows = Items(
            ids,
            values.to_numpy(dtype=np.float64),
            [clusters.get(name, name) for name in ids],
            np.ones(len(ids)),
        )
        return estimate(rows, kind, confidence=view.level)

    below, spread = over(replies["x"] < 0, "proportion"), over(replies["spread"], "mean")
    return RewardPlane(found.x, found.y, _cells(replies), len(replies), below, spread)


@lru_cache(maxsize=256)
def _clusters(entry: EvalEntry) -> dict[str, str]:
    """Row id -> cluster."""
    found = query([entry], "select row_id, cluster from samples")
    return {} if found.empty else dict(zip(found["row_id"], found["cluster"], strict=True))


def cell_replies(view: View, checkpoint: str, i: int, j: int) -> pd.DataFrame:
    """The replies in one cell of the plane: row_id, category, x, y (logits), disagreement; those
    on which members differ most first."""
    found = _placed(view, checkpoint)
    names = ["row_id", "category", "x", "y", "disagreement"]
    if found is None or found.replies.empty:
        return pd.DataFrame(columns=names)
    rows = found.replies
    chosen = rows[(rows["i"] == i) & (rows["j"] == j)].rename(columns={"spread": "disagreement"})
    return chosen[names].sort_values(
        "disagreement", ascending=False, kind="stable", ignore_index=True
    )


@dataclass(frozen=True)
class _Placed:
    """Every reply with its two scores and its cell: row_id, category, x, y, spread, i, j and the
    cell's edges."""

    x: str
    y: str
    replies: pd.DataFrame


@remembered(64)
def _placed(view: View, checkpoint: str) -> _Placed | None:
    scores = member_scores(view, checkpoint)
    models = reward_models(view, checkpoint)
    if scores.empty or not models:
        return None
    names = list(models)
    if len(names) >= 2:
        x, y = names[:2]
        across, up = scores[models[x]].mean(axis=1), scores[models[y]].mean(axis=1)
        spreads = [scores[models[n]].std(axis=1, ddof=0) for n in (x, y)]
    else:
        columns = models[names[0]]
        if len(columns) < 2:
            return None
        x, y = (f"{names[0]}, member {i}" for i in (0, 1))
        across, up = scores[columns[0]], scores[columns[1]]
        spreads = [scores[columns].std(axis=1, ddof=0)]
    spread = sum(spreads) / len(spreads)
    frame = scores[["row_id", "category"]].assign(x=across, y=up, spread=spread)
    frame = frame.dropna(subset=["x", "y", "spread"])
    return _Placed(x, y, _gridded(frame))


def _gridded(frame: pd.DataFrame) -> pd.DataFrame:
    """With as many cells along a side as the square root of the replies: some for each cell."""
    found = frame.copy()
    cells = min(MOST, max(FEWEST, round(len(frame) ** 0.5)))
    for name, place in (("x", "i"), ("y", "j")):
        edges = _edges(frame[name], cells) if len(frame) else np.zeros(cells + 1)
        found[place] = np.clip(np.digitize(frame[name], edges) - 1, 0, cells - 1)
        found[f"{name}0"], found[f"{name}1"] = edges[found[place]], edges[found[place] + 1]
    return found


def _cells(replies: pd.DataFrame) -> pd.DataFrame:
    keys = ["i", "j", "x0", "x1", "y0", "y1"]
    if replies.empty:
        return pd.DataFrame(columns=[*keys, "n", "disagreement"])
    grouped = replies.groupby(keys)["spread"]
    return grouped.agg(n="size", disagreement="mean").reset_index()


def _edges(values: pd.Series, cells: int) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, cells + 1)


@lru_cache(maxsize=64)
def member_correlation(view: View, checkpoint: str) -> pd.DataFrame:
    """Every two members: a, b, r (Pearson), low, high (Fisher's z, at the view's level), n."""
    scores = member_scores(view, checkpoint)
    rows = []
    for a, b in combinations([c for c in scores.columns if "/" in c], 2):
        both = scores[[a, b]].dropna()
        n = len(both)
        constant = n == 0 or bool((both.nunique() < 2).any())
        r = float("nan") if n < 3 or constant else float(np.corrcoef(both[a], both[b])[0, 1])
        low, high = _fisher(r, n, view.level)
        rows.append({"a": a, "b": b, "r": r, "low": low, "high": high, "n": n})
    return pd.DataFrame(rows, columns=["a", "b", "r", "low", "high", "n"])


def _fisher(r: float, n: int, level: float) -> tuple[float, float]:
    if n < 4 or not abs(r) < 1.0:
        return float("nan"), float("nan")
    half = z_value(level) / np.sqrt(n - 3)
    return float(np.tanh(np.arctanh(r) - half)), float(np.tanh(np.arctanh(r) + half))


@remembered(64)
def score_shift(view: View, before: str, after: str, model: str | None = None) -> pd.DataFrame:
    """The distribution of a score at two checkpoints: checkpoint, x0, x1, share, n (of all).

    ``model``: a reward model's mean over members; None: the combined reward. Both checkpoints
    share the bins; a share is of that checkpoint's replies.
    """
    values = {}
    for checkpoint in dict.fromkeys((before, after)):
        scores = member_scores(view, checkpoint)
        columns = ["proxy"] if model is None else reward_models(view, checkpoint).get(model, [])
        values[checkpoint] = scores[columns].mean(axis=1).dropna() if columns else pd.Series([])
    everything = pd.concat(list(values.values())).astype(float)
    columns = ["checkpoint", "x0", "x1", "share", "n", "mean"]
    if everything.empty:
        return pd.DataFrame(columns=columns)
    edges = _edges(everything, BINS)
    rows = []
    for checkpoint, found in values.items():
        counts, _ = np.histogram(found.astype(float), edges)
        for i, count in enumerate(counts):
            share = count / max(1, len(found))
            mean = float(found.mean()) if len(found) else float("nan")
            rows.append((checkpoint, edges[i], edges[i + 1], share, len(found), mean))
    return pd.DataFrame(rows, columns=columns)


def accuracy_by_rating(index: RunIndex) -> pd.DataFrame:
    """Held-out accuracy of every reward checkpoint: checkpoint, stage, epoch, rating, value, low,
    high, n. ``rating`` is "all" or as the raters put it. Intervals are at 95 %, as recorded."""
    rows = []
    for info in index.checkpoints:
        if info.kind != REWARD:
            continue
        by_rating = info.training.get("accuracy_by_rating") or {}
        for rating, number in {"all": info.training.get("accuracy"), **by_rating}.items():
            if isinstance(number, dict) and number.get("value") is not None:
                rows.append(
                    {
                        "checkpoint": info.name,
                        "stage": info.stage,
                        "epoch": info.epoch,
                        "rating": rating,
                        **{key: number.get(key) for key in ("value", "low", "high", "n")},
                    }
                )
    names = ["checkpoint", "stage", "epoch", "rating", "value", "low", "high", "n"]
    return pd.DataFrame(rows, columns=names)


def score_move(view: View, before: str, after: str, model: str | None = None) -> Shift | None:
    """How a score moved on the prompts that both checkpoints answered: paired, at 95 %."""
    entry = reward_entry(view, after)
    if entry is None:
        return None
    name = "proxy" if model is None else f"score_{model}"
    return shift(view, f"{entry.set}.{name}", before, after)
