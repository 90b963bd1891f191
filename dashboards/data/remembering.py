"""Results that are kept by what they depend on, and by nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from dashboards.data.index import View

P = ParamSpec("P")
T = TypeVar("T")
Reader = Callable[Concatenate[View, P], T]


def remembered(
    most: int, *, level: bool = False, rows: bool = True
) -> Callable[[Reader[P, T]], Reader[P, T]]:
    """Keep the last ``most`` results of a function of a view, which must not be changed in place.

    Without ``level`` the function is given the view at 95 %, without ``rows`` that of all rows:
    whoever turns to another level does not wait for what is the same at every level.
    """

    def of(make: Reader[P, T]) -> Reader[P, T]:
        kept: Any = lru_cache(maxsize=most)(make)

        @wraps(make)
        def reader(view: View, *args: P.args, **kwargs: P.kwargs) -> T:
            if not level and view.level != 0.95:
                view = replace(view, level=0.95)
            if not rows and view.split != "all":
                view = replace(view, split="all")
            found: T = kept(view, *args, **kwargs)
            return found

        return reader

    return of
