"""What runs, when: one Prefect flow a file."""
