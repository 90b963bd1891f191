"""Dividing an eval set: split A is for choosing a checkpoint, split B for reporting on it.

Decisions are a function of the rows' ids, clusters and categories only, never of their order in
the file or of chance: the same set is divided alike on every machine.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

Key = tuple[str, str, str]  # row id, cluster, category


def assign_splits(rows: Sequence[Key]) -> dict[str, str]:
    """Row id -> "A" or "B". Clusters stay whole; halves are balanced, by category where it can be.

    Within a category, clusters from large to small (in the order of their hash) go to the split
    that has fewer rows of it; ties go to the one that has fewer rows in all.
    """
    clusters: dict[str, list[Key]] = defaultdict(list)
    for row in rows:
        clusters[row[1]].append(row)
    in_all = {"A": 0, "B": 0}
    in_category: dict[tuple[str, str], int] = defaultdict(int)
    found: dict[str, str] = {}
    for name in sorted(clusters, key=lambda name: _order(name, clusters[name])):
        members = clusters[name]
        category = _category(members)
        split = min("AB", key=lambda half: (in_category[category, half], in_all[half], half))
        in_all[split] += len(members)
        in_category[category, split] += len(members)
        found.update((row_id, split) for row_id, _, _ in members)
    return found


def choose_rows(rows: Sequence[Key], limit: int) -> set[str]:
    """Ids of ``limit`` rows: categories in turn, clusters in the order of their hash.

    Only the last cluster taken may be cut to meet the limit exactly.
    """
    clusters: dict[str, list[Key]] = defaultdict(list)
    for row in rows:
        clusters[row[1]].append(row)
    taken: dict[str, int] = defaultdict(int)
    turns = []
    for name in sorted(clusters, key=_hash):
        category = _category(clusters[name])
        turns.append((taken[category], category, name))
        taken[category] += 1
    ids = [row_id for _, _, name in sorted(turns) for row_id, _, _ in clusters[name]]
    return set(ids[:limit])


def _order(name: str, members: Sequence[Key]) -> tuple[str, int, str]:
    return (_category(members), -len(members), _hash(name))


def _category(members: Sequence[Key]) -> str:
    return min(category for _, _, category in members)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()
