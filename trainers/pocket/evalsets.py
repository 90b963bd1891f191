"""Writes the pocket eval sets: cards and rows under ``evalsets/pocket``, all on held-out items."""
