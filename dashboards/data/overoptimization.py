"""Gold and proxy reward against √KL, stage by stage, with the law of Gao et al. 2022 fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pandas as pd

from dashboards.data.changes import Shift, shift
from dashboards.data.index import View
from dashboards.data.metrics import catalogue, metrics
from harness.overoptimization import Fit, distance, distance_errors, fit, standard_errors
from harness.store.kinds import PROXY_KINDS

_CURVE = 200  # points of the drawn curve


@dataclass(frozen=True)
class Optimisation:
    """One RL stage.

    ``points``: checkpoint, order, stage, epoch, d (√nats), kl, kl_low, kl_high, kl_n, d_low,
    d_high, gold, gold_low, gold_high, gold_n, proxy, proxy_low, proxy_high (NaN without), status,
    picked, labelled (whether there is room for its epoch). ``curve``: d, gold; empty if
    nothing could be fitted. Gold and KL are over the view's rows. ``proxy_shift``: first to last;
    ``gold_shift``: from the best (chosen for its value) to the last, None if that is the best.
    """

    stage: str
    kind: str
    gold: str
    points: pd.DataFrame
    curve: pd.DataFrame
    fit: Fit
    proxy_shift: Shift | None = None
    gold_shift: Shift | None = None


def gold_metrics(view: View) -> list[str]:
    """What can stand for gold: ``gold.score`` first, then other scores whose high is better."""
    known = catalogue(view)
    scores = [
        name
        for name, metric in known.items()
        if name.endswith(".score") and metric.probe != "reward"
    ]
    return sorted(scores, key=lambda name: (name != "gold.score", list(known).index(name)))


def kl_metric(view: View) -> str | None:
    """The run's KL a reply; None if no checkpoint was measured against a reference."""
    known = catalogue(view)
    return next(
        (n for n, m in known.items() if m.probe == "reward" and n.partition(".")[2] == "kl"), None
    )


def rl_stages(view: View) -> list[str]:
    """The stages that were optimised for a proxy and have a KL, in the order of training."""
    kl = kl_metric(view)
    if kl is None:
        return []
    found = metrics(replace(view, level=0.95), (kl,))
    found = found[found["kind"].isin(PROXY_KINDS) & found["value"].notna()]
    return list(dict.fromkeys(found["stage"]))


@lru_cache(maxsize=32)
def overoptimization(view: View, stage: str, gold: str = "gold.score") -> Optimisation:
    """The stage's checkpoints and the fit to them. Raises KeyError without KL or ``gold``."""
    kl = kl_metric(view)
    known = catalogue(view)
    if kl is None or gold not in known:
        raise KeyError(gold if kl else "reward.kl")
    proxy = f"{kl.partition('.')[0]}.proxy"
    names = (kl, gold) + ((proxy,) if proxy in known else ())
    numbers = metrics(view, names)
    numbers = numbers[numbers["stage"] == stage]
    by_name = {name: numbers[numbers["metric"] == name].set_index("checkpoint") for name in names}
    points = _points(by_name[gold], by_name[kl], by_name.get(proxy))
    error = {
        name: standard_errors(
            points[f"{name}_low"].astype(float),
            points[f"{name}_high"].astype(float),
            confidence=view.level,
        )
        for name in ("gold", "kl")
    }
    fitted = fit(
        points["d"],
        points["gold"],
        errors=error["gold"],
        errors_of_distance=distance_errors(points["kl"], error["kl"]),
        confidence=view.level,
    )
    curve = pd.DataFrame(columns=["d", "gold"], dtype=float)
    if fitted.start is not None and len(points):
        d = np.linspace(0.0, float(points["d"].max()), _CURVE)
        curve = pd.DataFrame({"d": d, "gold": fitted.gold(d)})
    kind = str(numbers["kind"].iloc[0]) if len(numbers) else ""
    moved: list[Shift | None] = [None, None]
    if len(points) > 1:
        names_of = points["checkpoint"].tolist()
        best = names_of[int(points["gold"].to_numpy().argmax())]
        if proxy in known:
            moved[0] = shift(view, proxy, names_of[0], names_of[-1])
        if best != names_of[-1]:
            moved[1] = shift(view, gold, best, names_of[-1])
    return Optimisation(stage, kind, gold, points, curve, fitted, moved[0], moved[1])


def _points(gold: pd.DataFrame, kl: pd.DataFrame, proxy: pd.DataFrame | None) -> pd.DataFrame:
    found = gold[
        ["order", "stage", "epoch", "picked", "value", "low", "high", "n", "status"]
    ].rename(columns={"value": "gold", "low": "gold_low", "high": "gold_high", "n": "gold_n"})
    apart = kl[["value", "low", "high", "n"]].add_prefix("kl_").rename(columns={"kl_value": "kl"})
    found = found.join(apart, how="inner")
    for name in ("value", "low", "high"):
        shown = "proxy" if name == "value" else f"proxy_{name}"
        found[shown] = proxy[name] if proxy is not None else np.nan
    found = found.dropna(subset=["gold", "kl"]).sort_values("order")
    for name, source in (("d", "kl"), ("d_low", "kl_low"), ("d_high", "kl_high")):
        known = found[source].notna()
        found[name] = np.nan
        found.loc[known, name] = distance(found.loc[known, source])
    found["labelled"] = _spaced(found["d"].tolist())
    return found.reset_index()


def _spaced(distances: list[float]) -> list[bool]:
    """Which points can carry a label: the last of those that lie close together."""
    room = 0.035 * max(distances, default=0.0)
    return [
        all(abs(later - here) > room for later in distances[i + 1 :])
        for i, here in enumerate(distances)
    ]
