"""Evaluate: a checkpoint on labelled images that no training saw."""
