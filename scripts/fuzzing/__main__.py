"""``sh scripts/fuzz``: mutants of every reader, laws over random draws, and the summary of the last run."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from fuzzing import log
from fuzzing.mutate import mutant
from fuzzing.readers import Reader, readers
from fuzzing.tally import Tally
from fuzzing.work import SeedError, fuzz, run_one

MUTANTS, DRAWS, SEED = 10_000, 1_000, 1


def main(words: Sequence[str]) -> int:
    """Exit 0 without a failure, 1 with some, 2 for a wrong command line, 130 after Ctrl-C."""
    asked = _parser().parse_args(words)
    if asked.list:
        print("\n".join(readers()))
        return 0
    if asked.verb == "summary":
        log.page(asked.page)
        return 0
    if asked.verb == "laws":
        from fuzzing.laws import run

        return run(asked.draws, asked.seed)
    chosen = [readers()[name] for name in asked.reader or readers()]
    if asked.one is not None:
        return _again(chosen[0], asked.seed, asked.one, asked.save)
    return _all(chosen, asked)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sh scripts/fuzz", description="Fuzz the readers of Ridgeline.")
    parser.add_argument("verb", nargs="?", default="readers", choices=("readers", "laws", "summary"))
    parser.add_argument("page", nargs="?", type=Path, default=log.ROOT / "docs" / "reliability.md")
    parser.add_argument(
        "--reader", action="append", choices=list(readers()), metavar="NAME", help="only this; repeatable"
    )
    parser.add_argument("--mutants", type=int, default=MUTANTS, help=f"of each reader [{MUTANTS}]")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"laws: random plans [{DRAWS}]")
    parser.add_argument("--seed", type=int, default=SEED, help=f"another one makes other mutants [{SEED}]")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes [one per core]")
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep the smallest input of every failure")
    parser.add_argument("--one", type=int, metavar="N", help="only mutant N of the reader, with its trace")
    parser.add_argument("--list", action="store_true", help="names of the readers")
    return parser


def _all(chosen: Sequence[Reader], asked: argparse.Namespace) -> int:
    """Every reader in turn; Ctrl-C ends with what was done."""
    tallies: list[Tally] = []
    stopped = False
    try:
        for reader in chosen:
            count = max(1, round(asked.mutants * reader.share))
            tallies.append(Tally(reader.name, asked.seed))
            for tally in fuzz(reader, asked.seed, count, asked.workers):
                tallies[-1] = tally
                _progress(tally, count)
            _show(tallies)
    except KeyboardInterrupt:
        stopped = True
        _show(tallies)
    except SeedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    finally:
        _progress(None, 0)
        log.keep(log.READERS, [one.to_dict() for one in tallies if one.mutants], "reader")
        if asked.save:
            _save(tallies, asked.save)
    failed = sum(one.failed for one in tallies)
    if failed:
        print(f"\n{log.failures(tallies)}")
    total = sum(one.mutants for one in tallies)
    print(
        f"\n{total:,} mutants of {len(tallies)} readers, {failed:,} failures, seed {asked.seed}, {log.commit()}"
    )
    if stopped:
        print("interrupted", file=sys.stderr)
        return 130
    return 1 if failed else 0


def _show(tallies: Sequence[Tally]) -> None:
    """The line of the last reader, below a head where it is the first."""
    _progress(None, 0)
    head, *lines = log.table(tallies).splitlines()
    print("\n".join([head, *lines] if len(lines) == 1 else lines[-1:]), flush=True)


def _progress(tally: Tally | None, count: int) -> None:
    """One line on a terminal; None takes it off."""
    if sys.stderr.isatty():
        text = (
            ""
            if tally is None
            else f"{tally.reader}: {tally.mutants:,} of {count:,}, {tally.failed:,} failures"
        )
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def _save(tallies: Sequence[Tally], folder: Path) -> None:
    for one in tallies:
        cases = readers()[one.reader].seeds() if one.failures else ()
        for failure in one.failures.values():
            name = f"{one.reader}-{failure.kind}-{failure.number}".replace(" ", "-")
            mutant(cases, one.seed, one.reader, failure.number).write(folder / name)


def _again(reader: Reader, seed: int, number: int, save: Path | None) -> int:
    """One mutant in this process: its verdict, and the whole trace of what it raised."""
    case = mutant(reader.seeds(), seed, reader.name, number)
    with tempfile.TemporaryDirectory() as scratch:
        folder = save or Path(scratch) / "input"
        verdict = run_one(reader, case, folder, number)
        print(f"{verdict.kind}: {verdict.where}\n{verdict.message}\n{case.size:,} bytes in {folder}")
        try:
            reader.check(case.write(folder))
        except Exception:
            traceback.print_exc()
    return 1 if verdict.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
