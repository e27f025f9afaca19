"""Worker: a process that reads mutants within a limit of memory, and the one that watches over it."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from fuzzing.case import Case
from fuzzing.mutate import mutant
from fuzzing.readers import WHOLE, Reader
from fuzzing.tally import Tally
from fuzzing.verdict import Verdict, command, judge

#: Memory that a reader may take beyond what its seeds took [byte].
MEMORY_BYTES = 2 * 2**30
#: Processor time of one mutant, and wall time after which a worker that says nothing is killed [s].
LIMIT_S, SILENT_S = 10.0, 120.0
#: The same while a reader makes its seeds: the first of all compiles the simulation.
PREPARE_S = 900.0
_BLOCK = 25


class SeedError(Exception):
    """A seed is not read as it should be: its mutants would prove nothing."""


def run_one(reader: Reader, case: Case, folder: Path, number: int, limit_s: float = LIMIT_S) -> Verdict:
    """Read one input; every `WHOLE`-th through the whole command."""
    path = case.write(folder)
    whole = reader.whole
    if whole is not None and number % WHOLE == WHOLE - 1:
        words = whole(path)
        return judge(lambda: command(words), 6 * limit_s)
    return judge(lambda: reader.check(path), limit_s)


def check_seeds(reader: Reader, cases: list[Case], folder: Path) -> None:
    """Read every seed once. Raises SeedError where one is not read, or one that is to be refused is not."""
    for case in cases:
        path = case.write(folder)
        found = judge(lambda path=path: reader.check(path), PREPARE_S)  # type: ignore[misc]
        wanted = "clear error" if case.main in reader.refuses else "clean"
        if found.kind != wanted:
            raise SeedError(
                f"{reader.name}, seed {case.main}: {found.kind}, expected {wanted}: {found.message}"
            )


def fuzz(
    reader: Reader, seed: int, count: int, workers: int = 1, silent_s: float = SILENT_S
) -> Iterator[Tally]:
    """Read ``count`` mutants; the tally after each message, so that an interruption keeps what was done.

    Raises:
        SeedError: a seed is not right.
    """
    tally, start = Tally(reader.name, seed), time.perf_counter()
    blocks = [range(first, min(first + _BLOCK, count)) for first in range(0, count, _BLOCK)][::-1]
    with tempfile.TemporaryDirectory(prefix="ridgeline-fuzz-") as scratch:
        number = max(1, min(workers, len(blocks)))
        crew = [_Watched(reader, seed, Path(scratch) / f"{i:02}") for i in range(number)]
        try:
            while crew:
                wait([one.pipe for one in crew], 1.0)
                for one in list(crew):
                    one.listen(tally, blocks, silent_s)
                    if one.done:
                        crew.remove(one)
                tally.seconds = time.perf_counter() - start
                yield tally
        finally:
            for one in crew:
                one.stop()


class _Watched:
    """A worker from the watcher's side: the block it is at, and since when it is silent."""

    def __init__(self, reader: Reader, seed: int, folder: Path) -> None:
        self.reader, self.seed, self.folder, self.done = reader, seed, folder, False
        self._begin()

    def _begin(self) -> None:
        self.left: list[int] = []
        self.ready = False
        self.heard = time.monotonic()
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        work = (self.reader, self.seed, self.folder, theirs)
        self.process = context.Process(target=_work, args=work, daemon=True)
        self.process.start()
        theirs.close()

    def listen(self, tally: Tally, blocks: list[range], silent_s: float) -> None:
        """Take what the worker says; kill one that is silent; begin another in place of one that died."""
        try:
            while self.pipe.poll():
                self._take(self.pipe.recv(), tally, blocks)
                if self.done:
                    return
        except (EOFError, ConnectionError):
            self.process.join(5.0)
            code = self.process.exitcode
            self._lost(Verdict("killed", f"exit {code}", f"the process ended with {code}"), tally, blocks)
            return
        if time.monotonic() - self.heard > (silent_s if self.ready else PREPARE_S):
            self._lost(Verdict("hang", "waiting", f"no answer in {silent_s:g} s"), tally, blocks)

    def _take(self, said: Any, tally: Tally, blocks: list[range]) -> None:
        self.heard = time.monotonic()
        if isinstance(said, str):
            if said != "ready":
                raise SeedError(said)
            self.ready = True
        else:
            number, verdict, size = said
            tally.add(number, verdict, size)
            self.left.remove(number)
        self._next(blocks)

    def _next(self, blocks: list[range]) -> None:
        if self.left:
            return
        if not blocks:
            self.done = True
            self.stop()
            return
        self.left = list(blocks.pop())
        self.pipe.send(self.left)

    def _lost(self, verdict: Verdict, tally: Tally, blocks: list[range]) -> None:
        """The mutant at hand ended the worker; the rest of its block goes back."""
        if not self.ready:
            raise SeedError(f"{self.reader.name}: a worker ended while it read the seeds ({verdict.message})")
        self.stop()
        at, *rest = self.left or [-1]
        if at >= 0:
            case = mutant(self.reader.seeds(), self.seed, self.reader.name, at)
            tally.add(at, verdict, case.size)
        if rest:
            blocks.append(range(rest[0], rest[-1] + 1))
        self._begin()

    def stop(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.kill()
        self.process.join()


def _work(reader: Reader, seed: int, folder: Path, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the watcher's
    sink = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # what a library prints past Python is of no use
        os.dup2(sink, stream)
    sys.stdout = sys.stderr = io.StringIO()
    try:
        cases = list(reader.seeds())
        check_seeds(reader, cases, folder)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    _limit_memory()
    pipe.send("ready")
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            for number in pipe.recv():
                case = mutant(cases, seed, reader.name, number)
                pipe.send((number, run_one(reader, case, folder, number), case.size))


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    most = pages * resource.getpagesize() + MEMORY_BYTES
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
