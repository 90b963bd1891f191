"""Where a run is: its stages from left to right, a cell an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from dashboards import words
from dashboards.charts.layers import layered
from dashboards.charts.theme import Theme, Words, finish, hue
from dashboards.data.live import StageProgress

_WIDTH = 760  # pixels of a narrow page, which the names of stages share
_STATES = {
    "waiting": "to come",
    "running": "under way",
    "finished": "done",
    "rolled back": "done, rolled back",
}


def stepper_words(stages: Sequence[StageProgress], state: str) -> Words:
    """Which stage is under way, and how many epochs are done of how many.

    ``state``: the run's own (running, finished, stopped, interrupted).
    """
    if not stages:
        nothing = "The schedule of this run names no stage"
        return Words(nothing, "", f"{nothing}.")
    done = sum(stage.done for stage in stages)
    now = next((stage for stage in stages if stage.state == "running"), None)
    of = sum(stage.planned or 0 for stage in stages)
    known = all(stage.planned is not None for stage in stages)
    count = f"{done} of {of} epochs" if known else words.plural(done, "epoch")
    if now is None or state != "running":
        title = f"{count} done in {words.plural(len(stages), 'stage')}: the run is {state}"
    else:
        place = [stage.stage for stage in stages].index(now.stage) + 1
        title = f"Stage {place} of {len(stages)}, {now.stage}; {count} done in all"
    said = "; ".join(
        f"{s.stage} {s.done} of {s.planned or '?'} ({_told(s, state)})" for s in stages
    )
    return Words(title, "A cell an epoch, in the order of training", f"{title}. {said}.")


def stepper(
    stages: Sequence[StageProgress],
    theme: Theme,
    *,
    state: str,
    names: Sequence[str] = (),
    height: int = 130,
) -> Any:
    """``names``: the stages that have a hue of their own in the other charts, in order."""
    cells = []
    labels = []
    for slot, stage in enumerate(stages):
        count = max(1, stage.done, stage.planned or 0)
        position = list(names).index(stage.stage) if stage.stage in names else None
        colour = theme.grey if position is None else hue(position, theme)
        width = 0.94 / count  # every stage has as much room: names need it more than epochs
        for i in range(count):
            is_next = stage.state == "running" and state == "running" and i == stage.done
            cells.append(
                {
                    "left": slot + i * width,
                    "right": slot + (i + 1) * width - min(0.012, 0.15 * width),
                    "colour": colour,
                    "opacity": 1.0 if i < stage.done else 0.5 if is_next else 0.14,
                    "stage": stage.stage,
                    "epoch": i + 1,
                    "is": "done" if i < stage.done else "under way" if is_next else "to come",
                }
            )
        of = "" if stage.planned is None else f" of {stage.planned}"
        told = f"{stage.done}{of} · {_told(stage, state)}"
        labels.append({"at": slot, "stage": stage.stage, "said": told})
    room = round(_WIDTH / max(1, len(stages)))
    scale = alt.Scale(domain=[0, max(1, len(stages))], nice=False)
    base = alt.Chart(pd.DataFrame(cells)).encode(
        x=alt.X("left:Q", axis=None, scale=scale), x2=alt.X2("right:Q")
    )
    texts = alt.Chart(pd.DataFrame(labels)).encode(x=alt.X("at:Q", axis=None, scale=scale))
    layers = [
        base.mark_rect(cornerRadius=3).encode(
            y=alt.value(34),
            y2=alt.value(56),
            color=alt.Color("colour:N", scale=None),
            opacity=alt.Opacity("opacity:Q", scale=None),
            tooltip=[alt.Tooltip("stage:N"), alt.Tooltip("epoch:Q"), alt.Tooltip("is:N")],
        ),
        texts.mark_text(
            align="left", baseline="top", fontSize=13, fontWeight=600, color=theme.text, limit=room
        ).encode(y=alt.value(0), text=alt.Text("stage:N")),
        texts.mark_text(
            align="left", baseline="top", fontSize=11.5, color=theme.quiet, limit=room
        ).encode(y=alt.value(17), text=alt.Text("said:N")),
    ]
    return finish(layered(*layers), theme, stepper_words(stages, state), height=height)


def _told(stage: StageProgress, state: str) -> str:
    if stage.state == "running" and state != "running":
        return "not finished"
    if stage.state == "waiting" and state in ("finished", "stopped"):
        return "not reached"
    if stage.state == "finished" and stage.done < (stage.planned or 0):
        return "ended early"
    return _STATES[stage.state]
