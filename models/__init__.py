"""Everything that holds tensors; knows nothing of Prefect, Dask, storage or settings."""
