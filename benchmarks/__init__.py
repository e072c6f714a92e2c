"""Claims about segmint, each measured by `python -m benchmarks.NAME`."""
