"""Processes that do something in parallel, and go when they are told to.

They are started anew and not forked: a forked child cannot use its parent's GL display.
Ctrl-C reaches all processes of a terminal at once. A worker takes it for a wish to stop
and says nothing, so that a user sees one line and not a traceback of each.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """Some processes; see `workers`."""

    def __init__(self, count: int) -> None:
        """Starts them.

        Args:
            count: How many.
        """
        others = set(multiprocessing.active_children())
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, mp_context=context)
        with _ignored():
            # What a process ignores when it is started it ignores while it imports.
            for _ in range(count):
                self._pool.submit(_nothing)
        self._processes = set(multiprocessing.active_children()) - others

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Calls a function in one of them."""
        future: Future[Any] = self._pool.submit(_quietly, function, *arguments)
        return future

    def stop(self, now: bool) -> None:
        """Waits until all is done, or, ``now``, interrupts what is being done."""
        self._pool.shutdown(wait=not now, cancel_futures=now)
        # Again and again: some calls have been handed out already, and a worker that
        # was between two of them did not listen.
        while now and any(process.is_alive() for process in self._processes):
            for process in self._processes:
                if process.is_alive() and process.pid:
                    os.kill(process.pid, signal.SIGINT)
            time.sleep(0.1)


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Some processes that do not outlive what is done with them.

    Args:
        count: How many.
    """
    some = Workers(count)
    try:
        yield some
    except BaseException:
        some.stop(now=True)
        raise
    some.stop(now=False)


def _nothing() -> None:
    pass


def _quietly(function: Callable[..., T], *arguments: Any) -> T | None:
    """Calls a function that Ctrl-C may interrupt; nobody waits for its result then."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return function(*arguments)
    except KeyboardInterrupt:
        return None
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _ignored() -> Iterator[None]:
    # Only the main thread is told of signals, and may choose.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
