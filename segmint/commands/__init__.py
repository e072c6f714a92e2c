"""The commands of `segmint`, one module per topic."""
