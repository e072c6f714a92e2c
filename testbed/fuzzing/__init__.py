"""A fuzzer of every reader of outside bytes: a reader returns, or raises its own error.

Coverage-guided, by atheris (libFuzzer). `benchmarks.fuzz` runs all targets for an hour.
"""
