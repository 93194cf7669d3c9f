"""The way to a served reward: its cluster, its name, and how long to wait for it."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from genreward_wrappers.extras import require

SERVE_IT = "start it with: genreward serve --name {name}"
#: Seconds that a machine may take to answer at all.
PATIENCE = 10


class Connection:
    """Calls the deployment of a name. It is made at the first call.

    Copies that are unpickled in other processes connect by themselves.
    """

    def __init__(self, name: str, address: str, timeout: float) -> None:
        """Notes where to connect to.

        Args:
            name: Of the served reward.
            address: Of the Ray cluster, for a process that is in none; "auto" finds
                the one that runs on this machine.
            timeout: Seconds to wait for an answer.
        """
        if not name:
            raise ValueError("ray: needs the name of a served reward, as in ray:cup")
        if not timeout > 0:
            raise ValueError(f"timeout={timeout}: expected seconds above 0")
        self.name, self.address, self.timeout = name, address, float(timeout)
        self._handle: Any = None

    def ask(self, method: str, *arguments: Any) -> Any:
        """Calls a method of a replica.

        Raises:
            ConnectionError: There is no such cluster or no such reward any more, or
                two replicas died while they answered.
            TimeoutError: No answer came in time.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._ask(method, arguments)
        # Ray Serve refuses to wait where a loop runs, as it does in notebooks.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(self._ask, method, arguments).result()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the handle, which belongs to this process."""
        return {**vars(self), "_handle": None}

    def _ask(self, method: str, arguments: tuple[Any, ...]) -> Any:
        errors = require("ray.exceptions", "ray", "served rewards need Ray")
        for last in (False, True):
            handle = self._connect()
            try:
                response = getattr(handle, method).remote(*arguments)
                return response.result(timeout_s=self.timeout)
            except TimeoutError as error:
                raise TimeoutError(
                    f"the served reward {self.name!r} did not answer within "
                    f"{self.timeout:g} s: its cluster is overloaded or gone; "
                    "timeout= waits longer"
                ) from error
            except errors.RayTaskError as error:
                raise error.cause from error
            except errors.RayActorError as error:
                # A replica died. What it was asked travels with the request, so that
                # another one can be asked the same.
                if last:
                    raise ConnectionError(
                        f"two replicas of the served reward {self.name!r} died while "
                        "they answered the same request: see `ray logs` for the cause"
                    ) from error
            except Exception as error:
                self._handle = None
                raise self._gone(error) from error
        raise AssertionError

    def _connect(self) -> Any:
        ray = require("ray", "ray", "served rewards need Ray")
        serve = require("ray.serve", "ray", "served rewards need Ray Serve")
        if self._handle is not None and ray.is_initialized():
            return self._handle
        if not ray.is_initialized():
            try:
                join_cluster(self.address)
            except ConnectionError as error:
                wanted = SERVE_IT.format(name=self.name)
                raise ConnectionError(f"{error}; {wanted}") from error
        try:
            self._handle = serve.get_app_handle(self.name)
        except Exception as error:
            raise self._gone(error) from error
        return self._handle

    def _gone(self, error: Exception) -> ConnectionError:
        try:
            serve = require("ray.serve", "ray", "served rewards need Ray Serve")
            running = ", ".join(sorted(serve.status().applications)) or "none"
        except Exception:
            running = "no Ray Serve"
        return ConnectionError(
            f"the reward {self.name!r} is not served ({str(error).splitlines()[0]}); "
            f"served are: {running}. " + SERVE_IT.format(name=self.name)
        )


def find_cluster(address: str | None = None) -> bool:
    """Joins a Ray cluster, by default that on this machine, or starts one there.

    Returns:
        Whether one was started, which whoever asked for it has to end.

    Raises:
        ConnectionError: There is none at the address.
    """
    ray = require("ray", "ray", "served rewards need Ray")
    try:
        join_cluster(address or "auto")
    except ConnectionError:
        if address is not None:
            raise
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error")
        return True
    return False


def join_cluster(address: str) -> None:
    """Makes this process one of a Ray cluster's.

    Args:
        address: "auto" for the cluster on this machine, or "<host>:<port>".

    Raises:
        ConnectionError: There is none.
    """
    ray = require("ray", "ray", "served rewards need Ray")
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdigit():
            # Ray itself would try again for minutes.
            socket.create_connection((host, int(port)), PATIENCE).close()
        ray.init(address, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        raise ConnectionError(f"no Ray cluster at {address!r} ({error})") from error
