"""Run: what every stage shares: the order of the stages, where shards lie, task runs, progress."""
