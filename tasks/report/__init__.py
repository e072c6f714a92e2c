"""Report: one page and the Prefect artifacts of a run, from the store alone."""
