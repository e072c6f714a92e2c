"""Attacks by whoever may give segmint something to read, tried with the real thing."""
