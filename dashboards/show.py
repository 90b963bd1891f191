"""How pages put things on the screen: charts, tables, text of models, and pages without content.

Whatever a model said, or a run, a set or a checkpoint is called, is text and never markup. It goes
through ``text``, ``line``, ``table`` or ``chart``, never into ``st.markdown``, a label or
``st.metric``. These make it visible (``harness.visible``); no page has to.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

import pandas as pd
import streamlit as st

from dashboards import words
from dashboards.data.index import Problem
from harness.visible import visible

P = ParamSpec("P")
_MOST_SPECS = 512


@dataclass(frozen=True)
class Spec:
    """A chart as Vega-Lite JSON, its data included, with every text in it visible."""

    text: str

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Spec:
        """The chart of a Vega-Lite specification."""
        text = json.dumps(spec, ensure_ascii=False)
        return cls(text if text.isprintable() else json.dumps(_visible(spec), ensure_ascii=False))


_specs: OrderedDict[Any, Spec] = OrderedDict()
_lock = threading.Lock()


def text(content: str) -> None:
    """Something that a model, a user or a file said, with what cannot be seen made visible.

    Not ``st.code``: its highlighter takes a third of a second of a page's first render.
    """
    with st.container(border=True):
        st.text(visible(content, tabs=True) or " ", width="stretch")


def command(content: str) -> None:
    """Something to be typed in a terminal, with a button that copies it."""
    st.code(visible(content, tabs=True), language=None, wrap_lines=True)


def line(content: str) -> None:
    """A short piece of text that holds names from files, with what cannot be seen made visible."""
    st.text(visible(content))


def heading(title: str, lead: str = "") -> None:
    """The page's name and what it is for: our own words only."""
    st.title(title, anchor=False)
    if lead:
        st.caption(lead)


def empty(what: str, *commands: str) -> None:
    """Nothing to show: why, in our own words, and the exact commands that change it."""
    st.info(what)
    if commands:
        command("\n".join(commands))


def no_run(folder: str) -> None:
    """An empty folder of runs, and what puts one there; ``folder``: as it is typed."""
    empty(
        "There is no run in this folder yet. This trains one on a laptop, in a few minutes:",
        f"aldente run schedules/pocket.yaml --runs {folder}",
    )


def drawn(make: Callable[P, Any]) -> Callable[P, Spec]:
    """A page's function that makes a chart, remembered by its arguments, which must be hashable
    (a ``View`` stands for all its bytes on disk): building a chart takes longer than showing it.
    """
    name = (make.__code__.co_filename, make.__qualname__)  # pages are executed anew each time

    @wraps(make)
    def remembered(*args: P.args, **kwargs: P.kwargs) -> Spec:
        key = (name, args, tuple(sorted(kwargs.items())))
        with _lock:
            if key in _specs:
                _specs.move_to_end(key)
                return _specs[key]
        spec = Spec.of(make(*args, **kwargs).to_dict(validate=False))
        with _lock:
            _specs[key] = spec
            while len(_specs) > _MOST_SPECS:
                _specs.popitem(last=False)
        return spec

    return remembered


def chart(
    of: Any,
    *,
    fill: bool = True,
    key: str | None = None,
    on_select: Callable[[], None] | None = None,
) -> None:
    """An Altair chart, or what a ``drawn`` function gave.

    Its description is its name for screen readers; our look is the only one. ``on_select`` is
    called when somebody selects marks, which ``st.session_state[key]`` then names.
    """
    spec = json.loads((of if isinstance(of, Spec) else Spec.of(of.to_dict(validate=False))).text)
    width: Any = "stretch" if fill else "content"
    if on_select is None:
        st.vega_lite_chart(spec=spec, width=width, theme=None, key=key)
    else:
        st.vega_lite_chart(spec=spec, width=width, theme=None, key=key, on_select=on_select)


def table(
    frame: pd.DataFrame,
    *,
    percent: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    wide: Sequence[str] = (),
    key: str | None = None,
    on_select: Callable[[], None] | None = None,
) -> None:
    """A frame as cells of plain text and numbers, with what cannot be seen made visible;
    ``percent`` columns are shares, ``wide`` ones hold sentences.

    ``on_select`` is called when somebody selects a row, which ``st.session_state[key]`` then names.
    """
    shown = frame.copy()
    config: dict[str, Any] = {}
    for column in shown.columns:
        title = visible((names or {}).get(column, column.replace("_", " ")))
        if column in percent:
            shown[column] = [words.number(v, share=True) for v in shown[column].astype(float)]
            config[column] = st.column_config.TextColumn(title)
        elif pd.api.types.is_float_dtype(shown[column]):
            config[column] = st.column_config.NumberColumn(title, format="%.3g")
        elif pd.api.types.is_bool_dtype(shown[column]):
            shown[column] = ["✓" if value else "" for value in shown[column]]
            config[column] = st.column_config.TextColumn(title)
        elif pd.api.types.is_integer_dtype(shown[column]):
            config[column] = st.column_config.NumberColumn(title)
        else:
            width: Any = "large" if column in wide else None
            shown[column] = [visible(v) if isinstance(v, str) else v for v in shown[column]]
            config[column] = st.column_config.TextColumn(title, width=width)
    if on_select is None:
        st.dataframe(shown, width="stretch", hide_index=True, column_config=config, key=key)
        return
    st.dataframe(
        shown,
        width="stretch",
        hide_index=True,
        column_config=config,
        key=key,
        on_select=on_select,
        selection_mode="single-row",
    )


def folded(label: str) -> Any:
    """A part that is closed at first, whose content is made only once it is opened: None until
    then. ``label``: our own words only, once a page; with another label it is closed again."""
    part = st.expander(label, key=label, on_change="rerun")
    return part if part.open else None


def problems(found: Sequence[Problem]) -> None:
    """What could not be read: the rest of the page is without it."""
    if not found:
        return
    st.warning(
        f"{words.plural(len(found), 'file')} of this run cannot be read and "
        f"{'is' if len(found) == 1 else 'are'} left out. What `aldente verify` says may help."
    )
    with st.expander("Which, and why"):
        text("\n".join(f"{problem.path}: {problem.message}" for problem in found))


def _visible(part: Any) -> Any:
    """A part of a chart's specification with every text, keys included, made visible."""
    if isinstance(part, str):
        return visible(part)
    if isinstance(part, Mapping):
        return {visible(key): _visible(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_visible(value) for value in part]
    return part
