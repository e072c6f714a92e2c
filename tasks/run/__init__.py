"""Run: what all stages share: their order, the paths of shards, task runs and progress."""
