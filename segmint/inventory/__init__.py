"""Inventory: what a store holds, for `segmint runs`, `segmint show` and `segmint checkpoints`.

A damaged entry is listed with what is wrong with it in `damaged`; it never hides the others. Dates
are UTC, ISO 8601.
"""
