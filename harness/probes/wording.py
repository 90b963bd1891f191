"""How often a verdict hangs on the wording: paraphrases of one question that disagree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from harness.probes.protocol import Row, Sample, Score, Unscored


def flips(
    rows: Sequence[Row], samples: Sequence[Sample], metric: str
) -> list[tuple[int, Score | Unscored]]:
    """For each cluster of several rows: 1 if their values of ``metric`` differ, else 0.

    Booked on the cluster's first row, so that n counts questions. A cluster with an unscored
    wording is unscored: the wordings that are left might agree only by being fewer.
    """
    clusters: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        clusters[row.cluster or row.id].append(i)
    found: list[tuple[int, Score | Unscored]] = []
    for members in clusters.values():
        if len(members) < 2:
            continue
        values = [s.value for i in members for s in samples[i].scores if s.metric == metric]
        if len(values) < len(members):
            found.append((members[0], Unscored("flips", "a wording is unscored")))
        else:
            found.append((members[0], Score("flips", float(len(set(values)) > 1))))
    return found
