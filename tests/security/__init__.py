"""Attacks, each tried with the real part."""
