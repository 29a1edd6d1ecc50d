"""Files are read if they are regular, written whole, and what killed writers left is swept."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ibau_lite import files

WRITER = """
import sys, time
from ibau_lite.files import replacing
with replacing(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def writer(path: Path) -> subprocess.Popen:
    """Another process that is in the middle of writing `path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def write(path: Path, content: bytes = b"whole") -> None:
    with files.replacing(path) as file:
        file.write(content)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_may_read(tmp_path, umask, mode):
    former = os.umask(umask)
    try:
        write(tmp_path / "new" / "file")
    finally:
        os.umask(former)
    assert stat.S_IMODE((tmp_path / "new" / "file").stat().st_mode) == mode


def test_what_killed_writers_left_is_swept_and_a_living_one_s_is_kept(tmp_path):
    dead, living = writer(tmp_path / "dead"), writer(tmp_path / "living")
    try:
        dead.send_signal(signal.SIGKILL)
        dead.wait()
        (tmp_path / ".mine.tmp").write_text("somebody else's")
        assert len(list(tmp_path.iterdir())) == 3
        write(tmp_path / "next")
        left = sorted(path.name for path in tmp_path.iterdir())
        assert len(left) == 3 and {".mine.tmp", "next"} < set(left)
        assert any(name.startswith(".living.") for name in left)
    finally:
        living.kill()
        living.wait()
    write(tmp_path / "next")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.tmp", "next"]


def test_where_files_cannot_be_locked_age_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "fcntl", None)
    young, old = (tmp_path / f".{name}.{32 * 'a'}.tmp" for name in ("young", "old"))
    for path in (young, old):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200, time.time() - 7200))
    write(tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, "file"]


def test_a_pipe_that_is_named_like_a_leftover_stops_nobody(tmp_path):
    os.mkfifo(tmp_path / f".pipe.{32 * 'a'}.tmp")
    write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_text_for_messages_is_short_and_printable():
    assert files.shown("plain ∞ text") == "plain ∞ text"
    assert files.shown("\x1b[2J\udc80\u202e") == r"\x1b[2J\udc80\u202e"
    long = files.shown("a" + 10**6 * "\0" + "z", most=50)
    assert len(long) == 50 and long.startswith(r"a\x00") and long.endswith("z") and "…" in long
    deep: list = []
    for _ in range(10**5):
        deep = [deep]
    for value in (deep, 10**5000, {1: 10**5 * "x"}, Path("x" * 5000)):
        assert len(files.shown(value)) <= 300


def test_a_file_that_is_exchanged_for_a_pipe_is_noticed(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    looks_regular = (tmp_path / "file").stat()
    monkeypatch.setattr(os, "stat", lambda path: looks_regular)
    with pytest.raises(ValueError, match="a regular file is expected, got a pipe"):
        files.open_regular(tmp_path / "pipe")


def test_a_signature_is_counted_across_blocks_and_only_as_far_as_asked(tmp_path):
    content = (2**20 - 2) * b"." + b"MARK" + 100 * b"MARK"
    (tmp_path / "file").write_bytes(content)
    with open(tmp_path / "file", "rb") as file:
        assert files.signatures(file, b"MARK", 1000) == 101
        assert files.signatures(file, b"MARK", 50) == 51
        assert file.tell() == 0
