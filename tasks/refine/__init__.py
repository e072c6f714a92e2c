"""Refine: image and attention → label map with a confidence."""
