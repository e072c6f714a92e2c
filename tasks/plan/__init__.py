"""Plan: which images a run makes, fixed row by row before anything expensive starts."""
