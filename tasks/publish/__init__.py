"""Publish: kept samples → an immutable dataset version."""
