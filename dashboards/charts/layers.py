"""Charts on top of one another."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dashboards.charts.rows import records


def layered(*layers: Any, data: pd.DataFrame | None = None) -> dict[str, Any]:
    """Altair's charts as the layers of one, in Vega-Lite JSON, to be handed to ``theme.finish``.

    ``data``: of layers that have none of their own. Every frame is written once, however many
    layers show it; ``alt.layer`` copies each part several times, which took most of a page's time.
    The fields of layers need their types (``"value:Q"``).
    """
    found: dict[str, Any] = {"layer": []}
    places: dict[int, str] = {}
    datasets: dict[str, Any] = {}
    params: list[dict[str, Any]] = []

    def named(frame: pd.DataFrame) -> dict[str, Any]:
        if id(frame) not in places:
            places[id(frame)] = f"rows-{len(places)}"
            datasets[places[id(frame)]] = records(frame)
        return {"name": places[id(frame)]}

    if data is not None:
        found["data"] = named(data)
    for layer in layers:
        own = layer.data
        bare = layer.copy(deep=False)
        bare.data = alt.Undefined
        spec = bare.to_dict(validate=False, context={"top_level": False, "pre_transform": False})
        spec.pop("data", None)  # Altair's word for a chart without data
        if isinstance(own, pd.DataFrame):
            spec["data"] = named(own)
        elif isinstance(own, alt.Data):
            spec["data"] = own.to_dict(validate=False)
        # What is selected is a parameter of the whole, in the view of its layer.
        params += [{**param, "views": [spec["name"]]} for param in spec.pop("params", [])]
        found["layer"].append(spec)
    if params:
        found["params"] = params
    return {**found, "datasets": datasets}
