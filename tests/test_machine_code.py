"""Compiled code that is kept on disk never stops an answer: damage, strangers, folders that cannot be written."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ridgeline.facts.notes import tell
from ridgeline.sim.serving import machine_code
from ridgeline.sim.serving.jit import keep

AGAIN = "compiled code is made anew"
FIRST = "compiling the event loop"
ANYONE = 65531  # a user that nobody is


def tiny(x: float, y: float) -> float:
    return 2.0 * x + y


def answer() -> float:
    """What a process does that calls an entry point for the first time."""
    tell.cache_clear()
    return keep(tiny)(1.5, 4.0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that code can be kept in."""
    monkeypatch.setenv("RIDGELINE_CACHE", str(tmp_path))
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setenv("TMPDIR", "/proc")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path / "compiled"


def code(folder: Path) -> Path:
    found = list(folder.glob("tiny-*.code"))
    assert len(found) == 1
    return found[0]


def notes(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def flip(place: float) -> Callable[[bytes], bytes]:
    def flipped(content: bytes) -> bytes:
        at = int(place * len(content))
        return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]

    return flipped


def sealed(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def older(content: bytes) -> bytes:
    """As another version of Numba leaves it."""
    import numba

    _, _, body = content.partition(b"\n")
    assert numba.__version__.encode() in body
    return sealed(body.replace(numba.__version__.encode(), b"0.1.0", 1))


def no_pickle(content: bytes) -> bytes:
    return sealed(content.split(b"\n")[1] + b"\nnot a pickle")


def other_value(content: bytes) -> bytes:
    return sealed(content.split(b"\n")[1] + b"\n" + pickle.dumps({"a": 1}))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="cut"),
        pytest.param(lambda content: content[:40], id="cut in the checksum"),
        pytest.param(lambda content: content + b"\0", id="longer"),
        pytest.param(lambda content: b"\xff" * 5000, id="garbage"),
        pytest.param(lambda content: bytes(len(content)), id="zeros"),
        pytest.param(flip(0.0), id="a bit of the checksum"),
        pytest.param(flip(0.02), id="a bit of the key"),
        pytest.param(flip(0.5), id="a bit of the code"),
        pytest.param(flip(0.99999), id="the last bit"),
        pytest.param(older, id="another Numba"),
        pytest.param(no_pickle, id="whole, but no pickle"),
        pytest.param(other_value, id="whole, but no code"),
    ],
)
def test_a_damaged_file_is_set_aside_and_made_anew(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    assert answer() == 7.0
    assert [FIRST in note for note in notes(caplog)] == [True]
    path = code(folder)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    assert answer() == 7.0
    said = notes(caplog)
    assert len(said) == 1
    assert AGAIN in said[0]
    assert path.name in said[0]
    assert "\n" not in said[0]
    assert answer() == 7.0
    assert notes(caplog) == []  # loaded


def test_no_single_wrong_byte_is_loaded(folder: Path) -> None:
    answer()
    path = code(folder)
    whole = path.read_bytes()
    key = whole.split(b"\n")[1]
    assert machine_code._payload(path, key) is not None
    for at in range(0, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            machine_code._payload(path, key)


def test_missing_files_are_made_and_what_is_no_file_is_gone_without(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer()
    path = code(folder)
    path.unlink()
    assert answer() == 7.0
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever
    assert answer() == 7.0
    assert path.is_file()
    path.unlink()
    path.mkdir()
    notes(caplog)
    assert answer() == 7.0
    assert "is a folder" in notes(caplog)[0]


def test_a_file_that_others_can_write_is_not_opened(folder: Path, tmp_path: Path) -> None:
    answer()
    path, marker = code(folder), tmp_path / "marker"
    program = f"cbuiltins\nexec\n(S'open({str(marker)!r}, \"w\")'\ntR.".encode()
    trap = sealed(path.read_bytes().split(b"\n")[1] + b"\n" + program)
    path.write_bytes(trap)
    path.chmod(0o666)
    assert answer() == 7.0
    assert not marker.exists()
    path.write_bytes(trap)
    folder.chmod(0o777)
    assert answer() == 7.0
    assert not marker.exists()
    folder.chmod(0o700)
    assert answer() == 7.0
    assert marker.exists()  # only now it is taken for this user's own


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_files_and_folders_of_another_user_are_not_used(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer()
    path = code(folder)
    os.chown(path, ANYONE, ANYONE)
    notes(caplog)
    assert answer() == 7.0
    assert "others can write it" in notes(caplog)[0]
    os.chown(folder, ANYONE, ANYONE)
    assert answer() == 7.0
    assert "in every run" in notes(caplog)[-1]


def test_a_link_is_no_folder_for_code(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    assert answer() == 7.0
    assert "in every run" in notes(caplog)[-1]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_users_cache_folder_is_taken_then_temporary_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RIDGELINE_CACHE")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    temporary = tmp_path / "tmp" / f"ridgeline-{os.geteuid()}" / "compiled"
    assert list(machine_code.folders()) == [temporary]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(machine_code.folders()) == [tmp_path / ".cache" / "ridgeline" / "compiled", temporary]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert list(machine_code.folders()) == [tmp_path / "xdg" / "ridgeline" / "compiled", temporary]
    assert {(path.stat().st_mode & 0o777) for path in machine_code.folders()} == {0o700}


@pytest.mark.parametrize(
    ("named", "problem"),
    [("~nobody-here/x", "no such user"), ("/dev/null", "is no folder"), ("shared", "others can write")],
)
def test_a_named_folder_that_cannot_be_used_is_told_once(
    named: str,
    problem: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "shared" / "compiled").mkdir(parents=True)
    (tmp_path / "shared" / "compiled").chmod(0o777)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RIDGELINE_CACHE", named)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    assert answer() == 7.0
    (note,) = [line for line in notes(caplog) if "RIDGELINE_CACHE" in line]
    assert note.startswith(f"note: RIDGELINE_CACHE = {named} is passed over: ")
    assert problem in note
    assert sorted(os.listdir(tmp_path)) == ["shared", "tmp"]  # and no folder called ~nobody-here


def test_old_code_does_not_pile_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code, "MOST_FILES", 5)
    folder.mkdir(mode=0o700)
    for i in range(20):
        path = folder / f"run-{i:016x}.code"
        path.write_bytes(b"")
        os.utime(path, (i, i))
    (folder / "notes.txt").write_text("not ours")
    answer()
    left = {path.name for path in folder.iterdir()}
    assert len(left) == 6
    assert left > {"notes.txt", code(folder).name, f"run-{19:016x}.code"}


# In processes of their own

PROGRAM = """
import os, resource, sys
sys.path.insert(0, sys.argv[2])
import test_machine_code as tests
from ridgeline.sim.serving.jit import jit, keep
if sys.argv[1] == "stranger" and os.geteuid() == 0:
    jit(tests.tiny)(1.5, 4.0)  # imports all of Numba, which may lie where a stranger cannot read
    os.setgroups([])
    os.setgid(tests.ANYONE)
    os.setuid(tests.ANYONE)
if sys.argv[1] == "full disk":
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
print(keep(tests.tiny)(1.5, 4.0))
"""


def started(kind: str, **variables: str) -> subprocess.Popen[str]:
    names = {"HOME": "/nonexistent", "TMPDIR": "/proc", "PYTHONDONTWRITEBYTECODE": "1", **variables}
    environment = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"} | names
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind, str(Path(__file__).parent)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_two_first_runs_at_once_both_answer(folder: Path, tmp_path: Path) -> None:
    both = [started("", RIDGELINE_CACHE=str(tmp_path)) for _ in range(2)]
    for one in both:
        out, said = one.communicate()
        assert (one.returncode, out) == (0, "7.0\n"), said
    assert len(list(folder.iterdir())) == 1  # nothing half written is left
    out, said = started("", RIDGELINE_CACHE=str(tmp_path)).communicate()
    assert (out, said) == ("7.0\n", "")


@pytest.mark.parametrize(
    ("kind", "variables", "said"),
    [
        ("stranger", {}, "in every run"),
        ("stranger", {"RIDGELINE_CACHE": "/usr"}, "name one in RIDGELINE_CACHE"),
        ("full disk", {"RIDGELINE_CACHE": "{tmp}"}, "cannot be kept in {tmp}/compiled: File too large"),
    ],
)
def test_without_a_place_to_keep_code_the_answer_comes(
    tmp_path: Path, kind: str, variables: dict[str, str], said: str
) -> None:
    values = {name: value.format(tmp=tmp_path) for name, value in variables.items()}
    one = started(kind, **values)
    out, errors = one.communicate()
    assert (one.returncode, out) == (0, "7.0\n"), errors
    assert said.format(tmp=tmp_path) in errors
    assert "Traceback" not in errors


def test_code_of_the_whole_loop_is_loaded_from_where_it_was_copied(tmp_path: Path) -> None:
    """As into an image whose users have no home: what is read there is what was made here."""
    words = ["serve", "llama-3.1-8b", "--on", "h100-sxm", "--chips", "1", "--isl", "512", "--osl", "64"]
    command = [sys.executable, "-m", "ridgeline", *words, "--concurrency", "8", "--simulate", "--json"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = next(iter(machine_code.folders()))
    shutil.copytree(kept, tmp_path / "compiled", copy_function=shutil.copy2)
    environment = os.environ | {"RIDGELINE_CACHE": str(tmp_path), "HOME": "/nonexistent", "TMPDIR": "/proc"}
    again = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert again.stderr == ""
    assert again.stdout == first.stdout
