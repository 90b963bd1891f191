"""The summaries of evaluations: each opened once, and what cannot be read said."""

from __future__ import annotations

from functools import lru_cache

from dashboards.data.index import EvalEntry, Problem, View
from harness.errors import InputError, IntegrityError
from harness.evaluation import SetEvaluation


def opened(entry: EvalEntry) -> SetEvaluation | None:
    """The evaluation behind an entry, opened once; None if its summary cannot be read."""
    found = _open(entry)
    return found if isinstance(found, SetEvaluation) else None


def problems(view: View) -> list[Problem]:
    """Everything of the run that could not be read, summaries included."""
    found = list(view.index.problems)
    found += [p for e in view.index.evaluations if isinstance(p := _open(e), Problem)]
    return found


@lru_cache(maxsize=20_000)
def _open(entry: EvalEntry) -> SetEvaluation | Problem:
    try:
        found = SetEvaluation.open(entry.folder)
        found.summary["metrics"].items()
    except (IntegrityError, InputError, KeyError, AttributeError, UnicodeDecodeError) as error:
        return Problem(entry.folder / "summary.json", str(error))
    return found
