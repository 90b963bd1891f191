"""Judging a model: eval sets, probes, judges, statistics, gates and selection."""
