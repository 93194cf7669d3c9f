"""The reward inspector over a folder that a training run is writing to.

The wrappers' ``record=`` writes one file per episode to a folder. `serve` shows that
folder in a browser on this machine and adds episodes as they come. Nothing leaves the
machine, and only episodes and their goal are ever read.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from genreward_wrappers.data.episodes import GOAL_FILE, Episode
from genreward_wrappers.data.goals import GoalBundle
from genreward_wrappers.evaluate.page.report import (
    LIVE_POLICY,
    GoalVideo,
    Report,
    Shown,
    around,
    detail,
    render,
    sheet,
    summary,
)

SUFFIX = ".safetensors"

#: A long run writes thousands; the page lists this many of the newest.
LISTED = 500
# The first look at a full folder takes a while: each answer reads for this many
# seconds, and the page asks again.
SECONDS_OF_READING = 1.0

#: What a socket raises when its other side is gone.
GONE = (ConnectionError, TimeoutError)


class FileGone(LookupError):
    """The episode is not, or no longer, in the folder."""


@dataclass(frozen=True)
class _Known:
    """What was read from a file, and its time and size then."""

    stamp: tuple[int, int]
    version: int
    entry: dict[str, Any]


class Folder:
    """The episodes of a folder, read as they come.

    Every change gets a higher version, so that a page can ask for what is new.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(
                f"there is no folder {path}: the wrappers' record= makes it and writes "
                "one file an episode to it, as in GenRewardWrapper(env, "
                f'record="{path}")'
            )
        if not path.is_dir():
            raise ValueError(
                f"{path} is no folder: give the one that the wrappers' record= writes "
                "its episodes to"
            )
        self.path = path.resolve()
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}
        self._gone: dict[str, int] = {}
        self._reading: set[str] = set()
        # A restarted server continues above the versions of the one before, which an
        # open page still remembers.
        self._version = time.time_ns() // 1_000_000

    def news(self, since: int) -> dict[str, Any]:
        """What changed since a version: episodes, removed names, the version now."""
        files = self._files()
        listed = dict(sorted(files.items(), reverse=True)[:LISTED])
        with self._lock:
            for name in self._known.keys() - listed.keys():
                del self._known[name]
                self._gone[name] = self._next()
        until = time.monotonic() + SECONDS_OF_READING
        for name, stamp in listed.items():
            if not self._take(name, stamp):
                continue
            # Not under the lock: one large file must not hold up every answer.
            try:
                entry = self._entry(name)
            finally:
                self._reading.discard(name)
            with self._lock:
                self._gone.pop(name, None)
                self._known[name] = _Known(stamp, self._next(), entry)
            if time.monotonic() > until:
                break
        with self._lock:
            more = any(not self._is_known(*item) for item in listed.items())
            return {
                "episodes": [
                    k.entry for k in self._known.values() if k.version > since
                ],
                "gone": [name for name, at in self._gone.items() if at > since],
                "since": self._version,
                "more": more,
                "older": len(files) - len(listed),
            }

    def _is_known(self, name: str, stamp: tuple[int, int]) -> bool:
        known = self._known.get(name)
        return known is not None and known.stamp == stamp

    def _take(self, name: str, stamp: tuple[int, int]) -> bool:
        """Whether a file is to be read, and not being read already."""
        with self._lock:
            if self._is_known(name, stamp) or name in self._reading:
                return False
            self._reading.add(name)
            return True

    def episode(self, name: str) -> dict[str, Any]:
        """Everything that the player needs about an episode.

        Raises:
            FileGone: It is not in the folder. Nothing outside the folder is read.
        """
        # Looked up among the existing files, so that no name leads anywhere else.
        if name not in self._files():
            raise FileGone(f"there is no episode {name!r} in {self.path}")
        shown = self._load(name)
        return {
            **summary(shown),
            **detail(shown),
            "sheet": sheet(shown.episode.frames),
        }

    def goal(self) -> tuple[GoalBundle | None, str]:
        """The folder's goal bundle, if any, and what is wrong with it, if anything."""
        path = self.path / GOAL_FILE
        if not path.is_file():
            return None, ""
        if not path.resolve().is_relative_to(self.path):
            return None, f"{path} is a link that leads out of the folder"
        try:
            return GoalBundle.load(path), ""
        except (ValueError, OSError) as error:
            return None, str(error)

    def _files(self) -> dict[str, tuple[int, int]]:
        """The time and size of each episode's file, by its name without suffix."""
        files = {}
        with os.scandir(self.path) as items:
            for item in items:
                name = item.name
                hidden = name.startswith(".") or name == GOAL_FILE
                if hidden or not name.endswith(SUFFIX):
                    continue
                try:
                    inside = Path(item.path).resolve().is_relative_to(self.path)
                    if not item.is_file() or not inside:
                        continue
                    stat = item.stat()
                except OSError:
                    # Removed since it was listed.
                    continue
                files[name.removesuffix(SUFFIX)] = (stat.st_mtime_ns, stat.st_size)
        return files

    def _entry(self, name: str) -> dict[str, Any]:
        try:
            return summary(self._load(name))
        # Whatever is wrong with a file becomes a line in the list and ends nothing.
        except Exception as error:
            return {
                "id": name,
                "label": name,
                "kind": "",
                "checkpoint": "",
                "success": False,
                "error": f"{type(error).__name__}: {error}",
            }

    def _load(self, name: str) -> Shown:
        episode = Episode.load(self.path / (name + SUFFIX))
        info = episode.info
        goal = info.get("goal", -1)
        return Shown(
            episode,
            id=name,
            kind=str(info.get("kind", "")),
            label=str(info.get("label", name)),
            goal=goal if isinstance(goal, int) else -1,
            checkpoint=str(info.get("checkpoint", "")),
        )

    def _next(self) -> int:
        self._version += 1
        return self._version


class Live:
    """A server of the inspector over one folder; `serve` makes it."""

    def __init__(self, folder: Folder, host: str, port: int) -> None:
        self.folder = folder
        self._started = False
        try:
            self._server = _Server((host, port), folder, host)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise OSError(
                errno.EADDRINUSE,
                f"port {port} on {host} is in use, perhaps by another inspector: give "
                "another with --port, or --port 0 for any that is free",
            ) from error

    @property
    def url(self) -> str:
        """The address of the page."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/"

    def serve_forever(self) -> None:
        """Answers until `close`."""
        self._started = True
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stops answering and frees the port."""
        # This waits for a loop to end, and would wait forever for one that never began.
        if self._started:
            self._server.shutdown()
        self._server.server_close()


def serve(folder: Path, port: int = 8000, host: str = "127.0.0.1") -> Live:
    """A server of the inspector over a folder of recorded episodes.

    Args:
        folder: The folder that a wrapper's ``record=`` writes to. A
            ``goal.safetensors`` in it is shown beside the episodes.
        port: The port; 0 takes any free one.
        host: The address to listen on. Any but this machine's own shows the episodes to
            everybody who can reach it by that name.

    Returns:
        The server, listening but not yet answering: see `Live.serve_forever`.

    Raises:
        FileNotFoundError: There is no such folder.
        OSError: The port is in use.
    """
    return Live(Folder(Path(folder)), host, port)


class _Server(ThreadingHTTPServer):
    # Elsewhere this would let a second server take the same port unnoticed.
    allow_reuse_address = os.name == "posix"
    # Pages that open at the same time wait instead of being refused.
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], folder: Folder, host: str) -> None:
        self.folder = folder
        # A page of another site can point its own name at this machine and then read
        # the answers as if they were its own; but it cannot choose the Host it sends.
        self.hosts = {"localhost", "127.0.0.1", host}
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores a browser that has closed the connection."""
        if not isinstance(sys.exc_info()[1], GONE):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    # Seconds after which a connection that says nothing, or reads nothing, is closed.
    timeout = 30.0
    protocol_version = "HTTP/1.1"
    server_version = "genreward"
    sys_version = ""

    def do_GET(self) -> None:
        """Answers with the page, the list or an episode."""
        host = self.headers.get("Host", "").rsplit(":", 1)[0]
        if host not in self.server.hosts:
            self._fail(
                HTTPStatus.FORBIDDEN,
                f"this server answers to {sorted(self.server.hosts)}, not {host!r}",
            )
            return
        try:
            self._route()
        except GONE:
            # The page was closed before the answer, or reads none.
            self.close_connection = True
        except FileGone as error:
            self._fail(HTTPStatus.NOT_FOUND, str(error.args[0]))
        except Exception as error:
            # For example a damaged episode: the message is for the page.
            message = f"{type(error).__name__}: {error}"
            self._fail(HTTPStatus.INTERNAL_SERVER_ERROR, message)

    def _route(self) -> None:
        address = urlsplit(self.path)
        path = unquote(address.path)
        if path == "/":
            self._send(_page(self.server.folder).encode(), "text/html; charset=utf-8")
        elif path == "/episodes.json":
            since = parse_qs(address.query).get("since", ["0"])[0]
            known = int(since) if since.isascii() and since.isdigit() else 0
            self._json(self.server.folder.news(known))
        elif path.startswith("/episode/") and path.endswith(".json"):
            name = path.removeprefix("/episode/").removesuffix(".json")
            self._json(self.server.folder.episode(name))
        else:
            raise FileGone(f"there is nothing at {path}")

    def _json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = json.dumps(value, allow_nan=False).encode()
        self._send(body, "application/json", status)

    def _fail(self, status: HTTPStatus, message: str) -> None:
        self._json({"error": message}, status)

    def _send(self, body: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", LIVE_POLICY)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: a page that asks every two seconds would fill the terminal."""


def _page(folder: Folder) -> str:
    bundle, wrong = folder.goal()
    goals = []
    if bundle is not None:
        goals = [
            GoalVideo(video, key)
            for video, key in zip(bundle.videos, bundle.key_frames, strict=True)
        ]
    report = Report(
        title=folder.path.name,
        prompt=bundle.prompt if bundle is not None else "",
        facts={"folder": str(folder.path)},
        goals=goals,
        notes=[f"The goal of this folder cannot be shown: {wrong}"] if wrong else [],
    )
    figures = {
        **around(report),
        "episodes": [],
        "live": True,
        "waiting": (
            f"Waiting for the first episode in {folder.path}.\n\nA wrapper with "
            f'record="{folder.path}" writes a file there at the end of each episode; '
            "it appears here by itself."
        ),
    }
    pictures = {"goals": [sheet(goal.frames) for goal in goals], "episodes": []}
    return render(figures, pictures, LIVE_POLICY)
