"""Servers, fleets and small runs that tests and benchmarks share: real parts, started and stopped
in one place.
"""
