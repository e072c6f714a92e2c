"""Servers, fleets and small runs that tests and benchmarks share."""
