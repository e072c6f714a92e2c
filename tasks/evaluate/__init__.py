"""Evaluate: a checkpoint on labelled pictures that no training saw."""
