"""Compose: generated objects → crowded scenes with exact labels."""
