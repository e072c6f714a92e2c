"""One stage of the pipeline a file: plain functions on arrays and tables, and one thin Prefect
task.
"""
