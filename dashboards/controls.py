"""Choices that are in the URL: a link shows what its sender saw, and a page's choices outlast it.

Streamlit's own binding leaves the default out of the URL and writes labels into it; a link to the
newest run would show another one tomorrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from harness.visible import visible


def choose(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    default: str | None = None,
    format_func: Callable[[str], str] = str,
    help: str | None = None,  # noqa: A002 - Streamlit's word for it
) -> str:
    """One of ``options`` (not empty), which are plain text; ``key`` is its name in the URL.

    What the URL says goes first if it is new and one of the options, then what was chosen before,
    then ``default`` (the first option). ``label`` and ``help`` are our own words only.
    """
    fallback = default if default in options else options[0]
    asked = st.query_params.get(key)
    _seed(key, asked if asked in options else None, asked, lambda v: v in options, fallback)
    found: str = st.selectbox(
        label, options, key=key, format_func=lambda name: visible(format_func(name)), help=help
    )
    _keep(key, found, found)
    return found


def choose_many(
    label: str,
    options: Sequence[str],
    *,
    key: str,
    default: Sequence[str] = (),
    most: int | None = None,
    format_func: Callable[[str], str] = str,
) -> list[str]:
    """Several of ``options``, at most ``most``; in the URL as ``key=a&key=b``."""
    asked = st.query_params.get_all(key)
    valid = [name for name in dict.fromkeys(asked) if name in options][:most]
    _seed(
        key,
        valid or None,
        asked or None,
        lambda chosen: all(name in options for name in chosen),
        [name for name in default if name in options][:most],
    )
    found: list[str] = st.multiselect(
        label,
        options,
        key=key,
        format_func=lambda name: visible(format_func(name)),
        max_selections=most,
    )
    _keep(key, found, found or None)
    return found


def _seed(key: str, valid: Any, asked: Any, still: Callable[[Any], bool], fallback: Any) -> None:
    """Give the widget its value before it is drawn: a new URL, an older choice, the default."""
    state = st.session_state
    if valid is not None and asked != state.get(f"url-{key}"):
        state[key] = valid
        return
    if key not in state and f"chosen-{key}" in state:  # the widget was not on the last page
        state[key] = state[f"chosen-{key}"]
    if key not in state or not still(state[key]):
        state[key] = fallback


def _keep(key: str, found: Any, in_url: Any) -> None:
    """Remember the choice and write it into the URL."""
    st.session_state[f"chosen-{key}"] = found
    st.session_state[f"url-{key}"] = in_url
    if in_url is None:
        st.query_params.pop(key, None)
    elif (
        st.query_params.get_all(key) if isinstance(in_url, list) else st.query_params.get(key)
    ) != in_url:
        st.query_params[key] = in_url
