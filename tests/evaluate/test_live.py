"""The live server of the reward inspector."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from genreward_wrappers import GoalBundle
from genreward_wrappers.evaluate.page import live as live_module
from genreward_wrappers.evaluate.page.live import serve
from tests.evaluate.inspector import (
    HOSTILE,
    T,
    choose,
    drawn,
    film,
    frame_of,
    one,
    opened,
    until,
)

pytest.importorskip("PIL", reason="the report needs Pillow")


@contextmanager
def serving(folder):
    server = serve(folder, port=0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(5)


def get(server, path, host=None):
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def record(folder, number, **more):
    one(**more).save(folder / f"episode-{number:08}.safetensors")


def test_new_episodes_appear_by_themselves(chromium, tmp_path):
    with serving(tmp_path) as server, opened(chromium, server.url) as tab:
        tab.wait_for_selector("#waiting:visible")
        assert "Waiting for the first episode" in tab.text_content("#waiting")
        assert f'record="{tmp_path}"' in tab.text_content("#waiting")
        record(tmp_path, 1, info={"kind": "agent"}, wins=[20])
        tab.wait_for_selector("#episodes li")
        drawn(tab, 0)
        assert tab.text_content("#episode-label") == "episode-00000001"
        tab.keyboard.press("Shift+ArrowRight")
        assert frame_of(tab) == 10
        assert "video" in tab.text_content("#curves")
        (tmp_path / "episode-00000002.safetensors").write_bytes(b"half of it")
        record(tmp_path, 3)
        until(tab, "document.querySelectorAll('#episodes li').length === 3")
        label = "document.getElementById('episode-label').textContent"
        until(tab, f"{label} === 'episode-00000003'")
        choose(tab, "episode-00000002")
        assert "no safetensors file" in tab.text_content("#problem")
        assert not tab.is_visible("#playing")
        assert not tab.is_checked("#follow")
        # Whoever looks at an older one is left to it.
        record(tmp_path, 4)
        until(tab, "document.querySelectorAll('#episodes li').length === 4")
        assert tab.text_content("#episode-label") == "episode-00000002"
        # A file that is put right is read again.
        record(tmp_path, 2)
        tab.wait_for_selector("#playing:visible")
        (tmp_path / "episode-00000001.safetensors").unlink()
        until(tab, "document.querySelectorAll('#episodes li').length === 3")


def test_the_goal_of_the_folder_is_shown(chromium, tmp_path):
    videos = np.stack([film(T + 1, 10), film(T + 1, 50)])
    GoalBundle(videos, prompt=HOSTILE, key_frames=(T, 7)).save(
        tmp_path / "goal.safetensors"
    )
    record(tmp_path, 1, info={"goal": 1})
    record(tmp_path, 2, info={"goal": 99})
    with serving(tmp_path) as server, opened(chromium, server.url) as tab:
        until(tab, "document.querySelectorAll('#episodes li').length === 2")
        drawn(tab, 0)
        assert tab.text_content("#prompt") == f"“{HOSTILE}”"
        assert "the episode names none" in tab.text_content("#goal-note")
        choose(tab, "episode-00000001")
        drawn(tab, 7, "key")
        assert "video 2 of 2" in tab.text_content("#goal-note")
        drawn(tab, 0, "goal")
        tab.keyboard.press("ArrowRight")
        assert frame_of(tab, "goal") == 1


def test_a_damaged_goal_is_a_note(tmp_path):
    (tmp_path / "goal.safetensors").write_bytes(b"nothing")
    with serving(tmp_path) as server:
        status, body = get(server, "/")
        assert status == 200
        assert "cannot be shown" in body


def test_only_what_changed_is_sent(tmp_path):
    record(tmp_path, 1)
    with serving(tmp_path) as server:
        first = json.loads(get(server, "/episodes.json?since=0")[1])
        assert [e["id"] for e in first["episodes"]] == ["episode-00000001"]
        again = json.loads(get(server, f"/episodes.json?since={first['since']}")[1])
        assert (again["episodes"], again["gone"], again["more"]) == ([], [], False)
        assert json.loads(get(server, "/episodes.json?since=x")[1])["episodes"]
        (tmp_path / "episode-00000001.safetensors").unlink()
        gone = json.loads(get(server, f"/episodes.json?since={first['since']}")[1])
        assert gone["gone"] == ["episode-00000001"]


def test_a_full_folder_is_read_in_turns_newest_first(tmp_path, monkeypatch):
    for number in range(4):
        record(tmp_path, number)
    monkeypatch.setattr(live_module, "SECONDS_OF_READING", 0)
    monkeypatch.setattr(live_module, "LISTED", 3)
    folder = live_module.Folder(tmp_path)
    since, seen = 0, []
    for turn in range(3):
        news = folder.news(since)
        since = news["since"]
        seen += [entry["id"][-1] for entry in news["episodes"]]
        assert news["more"] == (turn < 2)
        assert news["older"] == 1
    assert seen == ["3", "2", "1"]
    # A page that outlived its server is told everything by the next.
    time.sleep(0.01)
    assert live_module.Folder(tmp_path).news(since)["episodes"]


@pytest.mark.parametrize(
    "path",
    [
        "/episode/../secret.json",
        "/episode/..%2Fsecret.json",
        "/episode/%2e%2e/secret.json",
        "/episode/link.json",
        "/episode/goal.json",
        "/episode/none.json",
        "/../secret.safetensors",
        "/favicon.ico",
        "/episode/",
    ],
)
def test_nothing_outside_the_folder_is_served(tmp_path, path):
    inside = tmp_path / "inside"
    inside.mkdir()
    one().save(tmp_path / "secret.safetensors")
    (inside / "link.safetensors").symlink_to(tmp_path / "secret.safetensors")
    record(inside, 1)
    with serving(inside) as server:
        status, body = get(server, path)
        assert status == 404
        assert "frame_steps" not in body
        assert get(server, "/episode/episode-00000001.json")[0] == 200


def test_a_goal_is_not_shown_through_a_link(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    GoalBundle(film(T + 1, 10)[None], prompt="a secret").save(
        tmp_path / "goal.safetensors"
    )
    (inside / "goal.safetensors").symlink_to(tmp_path / "goal.safetensors")
    with serving(inside) as server:
        status, body = get(server, "/")
        assert status == 200
        assert "a secret" not in body
        assert "leads out of the folder" in body


def test_a_closed_socket_is_no_error(tmp_path, capsys):
    record(tmp_path, 1)
    with serving(tmp_path) as server:
        port = int(server.url.rstrip("/").rsplit(":", 1)[1])
        for said in (b"", b"GET /episodes.json HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            one_of_them = socket.create_connection(("127.0.0.1", port))
            # Closing resets the connection instead of ending it.
            linger = struct.pack("ii", 1, 0)
            one_of_them.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            one_of_them.sendall(said)
            one_of_them.close()
        assert get(server, "/episodes.json")[0] == 200
    assert "Traceback" not in capsys.readouterr().err


def test_a_connection_that_says_nothing_is_closed(tmp_path, monkeypatch):
    assert 0 < live_module._Handler.timeout <= 60
    monkeypatch.setattr(live_module._Handler, "timeout", 0.1)
    record(tmp_path, 1)
    with serving(tmp_path) as server:
        port = int(server.url.rstrip("/").rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=30) as silent:
            assert silent.recv(1) == b"", "closed from the other side"


def test_many_pages_at_once_are_answered(tmp_path):
    record(tmp_path, 1)
    server = serve(tmp_path, port=0)
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    # All of them connect before the server answers anyone.
    waiting = [
        socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(200)
    ]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        for client in waiting:
            client.sendall(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert {client.recv(12) for client in waiting} == {b"HTTP/1.1 404"}
    finally:
        for client in waiting:
            client.close()
        server.close()
        thread.join(5)


def test_a_slow_file_holds_up_nobody(tmp_path, monkeypatch):
    record(tmp_path, 1)
    folder = live_module.Folder(tmp_path)
    folder.news(0)
    record(tmp_path, 2)
    reading, release = threading.Event(), threading.Event()
    real = folder._entry

    def slow(name):
        reading.set()
        assert release.wait(60)
        return real(name)

    monkeypatch.setattr(folder, "_entry", slow)
    found = []
    first = threading.Thread(target=lambda: found.append(folder.news(0)))
    first.start()
    assert reading.wait(60)
    # While one answer waits for the file, another has what is known, and says so.
    meanwhile = folder.news(0)
    assert [entry["id"] for entry in meanwhile["episodes"]] == ["episode-00000001"]
    assert meanwhile["more"]
    release.set()
    first.join(60)
    assert len(found[0]["episodes"]) == 2
    assert not found[0]["more"]


def test_only_this_machine_is_answered(tmp_path):
    record(tmp_path, 1)
    with serving(tmp_path) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert get(server, "/episodes.json", host="evil.example")[0] == 403
        assert get(server, "/episodes.json", host="evil.example:80")[0] == 403
        assert get(server, "/episodes.json", host="localhost:8000")[0] == 200


def test_a_damaged_file_stops_nothing(tmp_path):
    record(tmp_path, 1)
    (tmp_path / "episode-00000002.safetensors").write_bytes(b"x" * 100)
    with serving(tmp_path) as server:
        entries = json.loads(get(server, "/episodes.json")[1])["episodes"]
        errors = {e["id"]: e.get("error", "") for e in entries}
        assert errors["episode-00000001"] == ""
        assert "no safetensors file" in errors["episode-00000002"]
        status, body = get(server, "/episode/episode-00000002.json")
        assert status == 500
        assert "no safetensors file" in json.loads(body)["error"]


def test_a_port_in_use_says_what_to_do(tmp_path):
    server = serve(tmp_path, port=0)
    port = int(server.url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(OSError, match=rf"port {port} on 127.0.0.1 is in use.*--port"):
        serve(tmp_path, port=port)
    # Closes, though it never served.
    server.close()
    serve(tmp_path, port=port).close()


def test_a_missing_folder_says_what_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="record= makes it"):
        serve(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is no folder"):
        serve(tmp_path / "file")
