"""The parts of `benchmarks.robustness`."""
