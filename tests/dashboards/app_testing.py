"""Pages as Streamlit runs them, without a browser, and what is on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from streamlit.testing.v1 import AppTest

import dashboards

APP = Path(dashboards.__file__).parent / "streamlit_app.py"


class App(Protocol):
    """The fixture ``app``."""

    def __call__(self, runs: Path, page: str, **parameters: str) -> AppTest:
        """The page over a folder of runs, by a URL with these parameters; all that is folded is
        opened."""
        ...


def opened(page: str, **parameters: str) -> AppTest:
    found = AppTest.from_file(str(APP), default_timeout=120)
    found.run()
    if page != "runs":
        found.switch_page(f"app_pages/{page}.py")
    for name, value in parameters.items():
        found.query_params[name] = value
    found.run()
    assert not found.exception, found.exception
    unfold(found)
    return found


def unfold(found: AppTest) -> None:
    """Open what is folded. Its content is made only then."""
    folded = [part.proto.id for part in found.expander if part.proto.id]
    if folded:
        for name in folded:
            found.session_state[name.split("-", 2)[2]] = True
        found.run()
        assert not found.exception, found.exception


def texts(found: AppTest) -> list[str]:
    """Every text that stands for itself, commands to be copied included."""
    return [element.value for element in (*found.text, *found.code)]


def charts(found: AppTest) -> list[dict[str, Any]]:
    """The specs of the Vega-Lite charts of a page, from top to bottom."""
    specs = []
    for block in found.main.children.values():
        specs += list(_charts_in(block))
    return specs


def _charts_in(block: Any) -> Iterator[dict[str, Any]]:
    if block.type in ("arrow_vega_lite_chart", "vega_lite_chart"):
        yield json.loads(block.proto.spec)
    for child in getattr(block, "children", {}).values():
        yield from _charts_in(child)


def titles(found: AppTest) -> list[str]:
    """The titles of the charts."""
    return [" ".join(spec["title"]["text"]) for spec in charts(found) if "title" in spec]
