"""Garbage collection: what is old and segmint's own is deleted."""
