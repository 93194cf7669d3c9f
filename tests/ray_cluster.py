"""The Ray cluster that a module's tests share; needs the extra ray."""

from __future__ import annotations

import pytest

from benchmarks.ray_cluster import small_cluster


@pytest.fixture(scope="module")
def cluster():
    with small_cluster():
        yield
