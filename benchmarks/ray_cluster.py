"""A small Ray cluster on this machine, for benchmarks and for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def small_cluster() -> Iterator[None]:
    """Starts a cluster of two cores that logs nothing, and ends it afterwards."""
    # Ray lets its workers wait behind everything else that a machine does.
    os.environ.update(RAY_worker_niceness="0")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level="error",
    )
    try:
        yield
    finally:
        # A test may have ended it already.
        if ray.is_initialized():
            ray.shutdown()
