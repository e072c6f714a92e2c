"""Monitor: a run while it runs, in Prefect's UI, for Prometheus and as JSON lines."""
