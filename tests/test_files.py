"""Files are written whole or not at all: real kills at each system call, a full disk; reads have a limit."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ridgeline import files

OLD, NEW = "the older result\n" * 400, "the newer result\n" * 90_000
_TRACEME, _SYSCALL = 0, 24


def _traced_write(target: Path, kill_at: int | None) -> int:
    """Write ``NEW`` in a child that is killed at system-call stop ``kill_at``; the number of stops it came to."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    child = os.fork()
    if child == 0:
        libc.ptrace(_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            files.write(target, NEW)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    stops = 0
    while True:
        if stops == kill_at:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return stops
        if libc.ptrace(_SYSCALL, child, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            return stops
        stops += 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ptrace is Linux's")
def test_a_kill_at_any_system_call_leaves_the_older_or_the_newer_file_whole(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    target.write_text(OLD)
    total = _traced_write(target, None)
    assert total > 20  # entry and exit of: open, stat, chmod, write, fsync, rename, open, fsync ...
    assert target.read_text() == NEW
    found = set()
    for stop in range(total):
        target.write_text(OLD)
        _traced_write(target, stop)
        text = target.read_text()
        assert text in (OLD, NEW), f"broken when killed at stop {stop} of {total}"
        found.add(text)
    assert found == {OLD, NEW}  # both sides of the rename were reached


def test_a_full_disk_leaves_the_older_file_and_the_message_names_it(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text(OLD)
    program = (
        "import resource, sys; from pathlib import Path; from ridgeline import files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: files.write(Path(sys.argv[1]), 'x' * 5_000_000)\n"
        "except OSError as error: print(error.filename, error.strerror)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(target)], capture_output=True, text=True)
    assert done.stdout == f"{target} File too large\n", done.stderr
    assert target.read_text() == OLD
    assert os.listdir(tmp_path) == ["report.html"]  # nothing half written stays
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20_000


def test_an_interruption_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "a.json"
    target.write_text(OLD)
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write(target, NEW)
    assert target.read_text() == OLD
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_told_to_end_leaves_nothing_half_written(tmp_path: Path, number: signal.Signals) -> None:
    target = tmp_path / "a.json"
    target.write_text(OLD)
    child = os.fork()
    if child == 0:
        signal.signal(number, signal.SIG_DFL)
        os.fsync = lambda _: os.kill(
            os.getpid(), number
        )  # while the new content is beside, whole but unnamed
        try:
            files.write(target, NEW)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -number
    assert target.read_text() == OLD
    assert os.listdir(tmp_path) == ["a.json"]
    files.write(target, NEW)
    assert signal.getsignal(number) is signal.SIG_DFL  # a handler of ours stays for a write only


def test_what_killed_writers_left_is_removed_by_the_next(tmp_path: Path) -> None:
    target, mark = tmp_path / "a[1].json", "0" * 32
    names = [f".a[1].json.{mark}.part", f".a1.json.{mark}.part", ".a[1].json.part", f"a[1].json.{mark}.part"]
    for name in names:
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (1e9, 1e9))
    under_way = tmp_path / f".a[1].json.{'1' * 32}.part"
    under_way.write_text("half")
    files.write(target, NEW)
    assert sorted(os.listdir(tmp_path)) == sorted([*names[1:], under_way.name, target.name])


def test_a_byte_that_is_no_text_does_not_stop_a_file(tmp_path: Path) -> None:
    target = files.write(tmp_path / "a\udcff.txt", "of mod\udcff.yaml")
    assert target.read_text(encoding="utf-8") == "of mod\\udcff.yaml"


@pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="a file of Linux that opens but cannot be read"
)
@pytest.mark.parametrize("size", [-1, 100])
def test_a_read_that_fails_names_the_file(tmp_path: Path, size: int) -> None:
    link = tmp_path / "mem.csv"
    link.symlink_to("/proc/self/mem")
    with (
        files.open_file(link) as file,
        pytest.raises(files.FileError, match=r"mem\.csv: cannot be read: Input"),
    ):
        file.read(size)
    with (
        files.open_file(link) as file,
        pytest.raises(files.FileError, match=r"mem\.csv: cannot be read: Input"),
    ):
        file.readline()


def test_write_makes_folders_keeps_the_mode_and_follows_links(tmp_path: Path) -> None:
    target = files.write(tmp_path / "new" / "folder" / "run.sh", "#!/bin/sh\n")
    os.chmod(target, 0o750)
    link = tmp_path / "link.sh"
    link.symlink_to(target)
    files.write(link, "exit 0\n")
    assert link.is_symlink()
    assert target.read_text() == "exit 0\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o750


def test_a_new_file_keeps_to_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        target = files.write(tmp_path / "a.txt", "a")
        narrow = files.write(tmp_path / "b.txt", "b", mode=0o604)
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert stat.S_IMODE(narrow.stat().st_mode) == 0o600


def test_what_is_no_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    assert files.write("/dev/null", "gone") == Path("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="Is a directory") as caught:
        files.write(tmp_path, "a")
    assert caught.value.filename == str(tmp_path)


def test_a_pipe_that_nobody_reads_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(OSError, match="No such device") as caught:
        files.write(tmp_path / "pipe.json", NEW)
    assert caught.value.filename == str(tmp_path / "pipe.json")


@pytest.mark.skipif(not hasattr(os, "fork") or os.geteuid() != 0, reason="root may write anything")
def test_a_file_that_may_not_be_written_is_not_replaced() -> None:
    folder = Path(tempfile.mkdtemp())
    target = folder / "kept.json"
    target.write_text(OLD)
    target.chmod(0o444)
    folder.chmod(0o777)
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            files.write(target, NEW)
        except PermissionError as error:
            os._exit(42 if error.filename == str(target) else 43)
        os._exit(44)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert target.read_text() == OLD
    shutil.rmtree(folder)


def test_a_long_name_is_written(tmp_path: Path) -> None:
    target = files.write(tmp_path / ("n" * 250 + ".txt"), "a")
    assert target.read_text() == "a"


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_devices_are_refused(path: str) -> None:
    with pytest.raises(files.FileError, match="is a device or socket, expected a file"):
        files.read_bytes(Path(path))


def test_pipes_folders_and_missing_files_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("pipe", "is a pipe"),
        (".", "is a folder"),
        ("none", "no such file"),
        ("a\0b", "null"),
    ):
        with pytest.raises(files.FileError, match=reason):
            files.read_bytes(tmp_path / name)


def test_a_file_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.json"
    path.write_bytes(b"x" * 1001)
    with pytest.raises(files.FileError, match=r"big\.json: larger than 1,000 bytes"):
        files.read_bytes(path, 1000)
    assert len(files.read_bytes(path, 1001)) == 1001


def test_text_that_is_not_utf8_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\n")
    assert files.read_text(path) == "a\nb\n"
    path.write_bytes(b"a\nb\xff\n")
    with pytest.raises(files.FileError, match="line 2: byte 0xff is not UTF-8"):
        files.read_text(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ', "cut off"),
        ("9" * 5000, "thousands of digits"),
        ('{"a": 1,}', "line 1 column"),
    ],
)
def test_json_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(files.FileError, match=reason) as caught:
        files.read_json(path)
    assert len(str(caught.value)) < 400


HOSTILE = [
    "a\nb",
    "a\rb",
    "a\x0bb",
    "a\x0cb",
    "a\x1b[31mb",
    "a\x85b",
    "a\u2028b",
    "a\u2029b",
    "a\u202eb",
    "a\0b",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_one_line_shows_what_cannot_be_seen(text: str) -> None:
    line = files.one_line(text)
    assert line.isprintable()
    assert line[0] == "a"
    assert line[-1] == "b"
    assert "\\" in line


def test_plain_text_of_any_script_stays() -> None:
    for text in ("Llama 3.1 405B", "Qwen3 · 通义千问 (α/β)", "naïve"):
        assert files.one_line(text) == text


def test_values_are_shown_short() -> None:
    assert files.shown("x" * 100_000) == "'" + "x" * 60 + "...'"
    assert len(files.shown([[0] * 10_000])) < 70
    assert files.shown(10**5000) == "a value of type int"
    assert len(files.shown_path("/a" * 5000)) < 200


def test_cells_are_no_formulas() -> None:
    assert files.cell("=cmd|' /C calc'!A0") == "'=cmd|' /C calc'!A0"
    assert files.cell(-1.5) == -1.5
    assert files.cell("h100-sxm") == "h100-sxm"
