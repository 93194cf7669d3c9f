"""Checks and figures of one GPU: see `python -m benchmarks.gpu --help`."""
