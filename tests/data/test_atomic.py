"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import time

import pytest

from genreward_wrappers.data import atomic
from genreward_wrappers.data.atomic import (
    recover_folder,
    replacing,
    replacing_folder,
    write_atomic,
)


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """As in a new process, which has tidied no folder yet."""
    monkeypatch.setattr(atomic, "_tidied", set())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def killed_while_writing(folder, what="replacing"):
    """A process that dies in the middle of a file, or of a folder."""
    code = f"""
        import os, signal
        from pathlib import Path
        from genreward_wrappers.data.atomic import replacing, replacing_folder
        with {what}(Path({str(folder)!r}) / "x") as scratch:
            (scratch / "inside" if scratch.is_dir() else scratch).write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(folder)
    assert left.startswith(".x.genreward-")
    return folder / left


@pytest.mark.parametrize("what", ["replacing", "replacing_folder"])
def test_what_a_killed_process_left_is_removed(tmp_path, what):
    killed_while_writing(tmp_path, what)
    write_atomic(tmp_path / "y", b"whole")
    assert names(tmp_path) == ["y"]


def test_what_is_being_written_stays(tmp_path):
    mine = (tmp_path / ".x").with_name(atomic._scratch_beside(tmp_path / "x").name)
    mine.write_text("half")
    left = killed_while_writing_elsewhere(tmp_path)
    write_atomic(tmp_path / "y", b"whole")
    assert mine.is_file(), "its process is this one"
    assert left.is_file(), "nobody here knows its process"
    then = time.time() - 2 * atomic.PATIENCE
    os.utime(left, (then, then))
    atomic._tidied.clear()
    write_atomic(tmp_path / "y", b"whole")
    assert mine.is_file()
    assert not left.exists(), "it is too old to be written to"


def killed_while_writing_elsewhere(folder):
    name = f".x.genreward-{'0' * 8}-1-{'a' * 8}"
    (folder / name).write_text("half")
    return folder / name


def test_foreign_names_stay(tmp_path):
    for name in (".x", ".genreward-1", ".x.genreward-abc", "x.genreward-00000000-1-aa"):
        (tmp_path / name).write_text("")
    before = names(tmp_path)
    write_atomic(tmp_path / "y", b"")
    assert names(tmp_path) == sorted([*before, "y"])


def test_the_umask_is_left_alone(tmp_path, monkeypatch):
    plain = tmp_path / "plain"
    plain.write_text("")
    (tmp_path / "folder").mkdir()

    def never(*_):
        raise AssertionError("the umask is that of the whole process")

    monkeypatch.setattr(os, "umask", never)
    write_atomic(tmp_path / "file", b"")
    assert mode(tmp_path / "file") == mode(plain)
    with replacing_folder(tmp_path / "made") as scratch:
        (scratch / "in").mkdir(mode=0o700)
        (scratch / "in" / "file").touch(mode=0o600)
    assert mode(tmp_path / "made") == mode(tmp_path / "folder")
    assert mode(tmp_path / "made" / "in") == mode(tmp_path / "folder")
    assert mode(tmp_path / "made" / "in" / "file") == mode(plain)


def test_a_library_may_make_the_file_itself(tmp_path):
    with replacing(tmp_path / "x.mp4", ending=".mp4") as scratch:
        assert scratch.suffix == ".mp4"
        scratch.unlink()
        scratch.touch(mode=0o600)
    (tmp_path / "plain").write_text("")
    assert mode(tmp_path / "x.mp4") == mode(tmp_path / "plain")


@pytest.mark.parametrize("one_step", [True, False])
@pytest.mark.parametrize("moment", range(6))
def test_one_of_two_folders_is_there(tmp_path, monkeypatch, one_step, moment):
    """A run that dies at any rename, or while it removes the old folder."""
    output = tmp_path / "out"
    output.mkdir()
    (output / "old").write_text("")
    if one_step:
        assert atomic._exchange(*twins(tmp_path)), "this system can exchange folders"
    else:
        monkeypatch.setattr(atomic, "_exchange", lambda *_: False)
    moments = iter(range(100))

    class Killed(BaseException):
        pass

    def deadly(act):
        def acted(*args, **kwargs):
            if next(moments) == moment:
                raise Killed
            return act(*args, **kwargs)

        return acted

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", deadly(os.replace))
        patch.setattr(atomic.shutil, "rmtree", deadly(atomic.shutil.rmtree))
        try:
            with replacing_folder(output) as scratch:
                (scratch / "new").write_text("")
        except Killed:
            pass
    if one_step:
        assert names(output) in (["old"], ["new"])
    recover_folder(output)
    assert names(output) in (["old"], ["new"])
    assert ".out.before" not in names(tmp_path)


def twins(folder):
    pair = folder / "one", folder / "other"
    for path in pair:
        path.mkdir()
    return pair
