"""Worker processes that run calls in parallel and never outlive the caller.

They are spawned and not forked: a forked child cannot use its parent's GL display.
Ctrl-C reaches all processes of a terminal at once. A worker stops quietly on it, so
that a user sees one line instead of a traceback from each.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

T = TypeVar("T")
Map = Callable[..., Iterator[Any]]


class Workers:
    """A pool of processes; see `workers`."""

    def __init__(self, count: int) -> None:
        """Starts the processes.

        Args:
            count: How many to start.
        """
        others = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, mp_context=context)
        with _ignored():
            # What ignores Ctrl-C when it starts also ignores it while it imports.
            for _ in range(count):
                self._pool.submit(_nothing)
        self._processes = set(multiprocessing.active_children()) - others

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Calls a function in one of the processes."""
        future: Future[Any] = self._pool.submit(_quietly, function, *arguments)
        return future

    def stop(self, now: bool) -> None:
        """Waits until all calls have returned, or, with ``now``, interrupts them."""
        self._pool.shutdown(wait=not now, cancel_futures=now)
        # More than once: a worker that is between two calls does not notice it.
        while now and any(process.is_alive() for process in self._processes):
            for process in self._processes:
                if process.is_alive() and process.pid:
                    os.kill(process.pid, signal.SIGINT)
            time.sleep(0.1)


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """A pool of processes that ends with the block.

    Args:
        count: How many to start.
    """
    some = Workers(count)
    try:
        yield some
    except BaseException:
        some.stop(now=True)
        raise
    some.stop(now=False)


@contextmanager
def parallel(processes: int) -> Iterator[Map]:
    """A `map` over equally long sequences, in this process or in several.

    Results come in order, each as soon as it is ready. The processes are started by the
    first call that has something for more than one of them to do.

    Args:
        processes: How many there are at most.
    """
    pool: Workers | None = None

    def each(function: Callable[..., T], *columns: Sequence[Any]) -> Iterator[T]:
        nonlocal pool
        if processes <= 1 or len(columns[0]) <= 1:
            return map(function, *columns)
        if pool is None:
            pool = stack.enter_context(workers(processes))
        futures = [pool.submit(function, *row) for row in zip(*columns, strict=True)]
        return (future.result() for future in futures)

    with ExitStack() as stack:
        yield each


def _nothing() -> None:
    pass


def _quietly(function: Callable[..., T], *arguments: Any) -> T | None:
    """Calls a function that Ctrl-C may interrupt; its result is not needed then."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return function(*arguments)
    except KeyboardInterrupt:
        return None
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _ignored() -> Iterator[None]:
    # Only the main thread receives signals, and may choose what they do.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
