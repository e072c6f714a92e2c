"""What runs, when: one Prefect flow per file."""
