"""The dashboard: run by ``aldente dashboard RUNS``. Pages are files in ``app_pages``."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboards import sidebar
from dashboards.data import ahead

# A file of our own: Streamlit's named icons are fetched from another host.
icon = str(Path(__file__).with_name("icon.svg"))
st.set_page_config(page_title="Al Dente", page_icon=icon, layout="wide")

page = st.navigation(
    {
        "Runs": [
            st.Page("app_pages/runs.py", title="Runs", default=True),
            st.Page("app_pages/live.py", title="Live"),
        ],
        "Where it over-cooked": [
            st.Page("app_pages/tradeoff.py", title="Trade-off"),
            st.Page("app_pages/timeline.py", title="Timeline"),
            st.Page("app_pages/overoptimization.py", title="Over-optimisation"),
        ],
        "What it learnt to say": [
            st.Page("app_pages/reward.py", title="Reward"),
            st.Page("app_pages/compare.py", title="Compare A ↔ B"),
            st.Page("app_pages/transcripts.py", title="Transcripts"),
            st.Page("app_pages/consistency.py", title="Consistency"),
            st.Page("app_pages/hallucination.py", title="Hallucination"),
        ],
        "What it was judged by": [
            st.Page("app_pages/evalsets.py", title="Eval sets"),
        ],
        "What to ship": [
            st.Page("app_pages/export.py", title="Pick and export"),
        ],
    }
)
view = sidebar.draw().view
page.run()
if view is not None:
    ahead.of(view)  # what other levels and rows will ask for, while somebody looks
