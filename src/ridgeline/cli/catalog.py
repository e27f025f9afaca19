"""``ridgeline catalog``: list, show, check and begin data files of models, chips, clusters, software."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ridgeline import files
from ridgeline.cli import outputs, shared

app = typer.Typer(
    help="List, show, check and begin the data files of models, chips, clusters and software.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Kind = Annotated[str | None, typer.Option(metavar="KIND", help="where the name alone does not tell it")]
Out = Annotated[Path | None, typer.Option(metavar="FILE", help="write to a file instead of stdout")]


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="models, chips, clusters, stacks, recipes, ...")
    ] = None,
    out: Out = None,
    as_json: shared.Json = False,
) -> None:
    """List the kinds, or every entry of one kind."""
    from ridgeline.facts import catalog

    if kind is None:
        names = {key: catalog.names(key) for key in catalog.kinds()}
        lines = [f"{key:<10} {len(found):>4}   {_some(found)}" for key, found in names.items()]
        _give(shared.json_text(names) if as_json else "\n".join(lines), out)
        return
    found = catalog.names(kind)
    if as_json:
        _give(shared.json_text(found), out)
        return
    titles = [_title(kind, name) for name in found]
    width = max((len(name) for name in found), default=0)
    _give("\n".join(f"{n:<{width}}  {t}".rstrip() for n, t in zip(found, titles, strict=True)), out)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="name of an entry")],
    kind: Kind = None,
    out: Out = None,
    as_json: shared.Json = False,
) -> None:
    """Show one entry: its file, or with --json what is read from it."""
    from ridgeline.api.written import written
    from ridgeline.facts import catalog

    kinds = [kind] if kind else [key for key in catalog.kinds() if catalog.entry_path(key, name)]
    path = catalog.entry_path(kinds[0], name) if kinds else None
    if path is None:
        raise catalog.CatalogError(_unknown(name, kind))
    if out is not None:
        outputs.keep_apart(out, f"--out {files.shown_path(out)}", [path])
    if as_json:
        _give(shared.json_text(written(catalog.load_file(path, kinds[0]))), out)
        return
    if len(kinds) > 1:
        others = ", ".join(f"--kind {other}" for other in kinds[1:])
        shared.say(f"{kinds[0]}: {path.name} (also: {others})", err=True)
    _give(files.read_text(path).rstrip(), out)


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(parser=shared.file, metavar="FILE", help="a YAML or JSON file of any kind")
    ],
    kind: Kind = None,
    as_json: shared.Json = False,
) -> None:
    """Check a data file; every problem is listed at once."""
    from ridgeline.facts import catalog

    problems = catalog.check(file, kind)
    if as_json:
        shared.echo_json({"file": str(file), "problems": problems})
    elif problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        shared.say("\n  ".join([f"{files.shown_path(file.name or file)}: {count}", *problems]), err=True)
    else:
        shared.say(f"{files.one_line(file.name)}: good")
    if problems:
        raise typer.Exit(2)


@app.command()
def schema(
    kind: Annotated[
        str, typer.Argument(metavar="KIND", help="models, chips, clusters, stacks, recipes, ...")
    ],
    out: Out = None,
) -> None:
    """Print the JSON schema of a kind's files, for editors."""
    from ridgeline.facts import catalog

    _give(shared.json_text(catalog.schema(kind)), out)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="model, chip, cluster, stack, recipe, ...")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="name of the new entry")],
    out: Out = None,
) -> None:
    """Print a commented file to fill in."""
    from ridgeline.cli.template import template
    from ridgeline.facts import catalog

    text = template(kind, name)
    if not catalog.is_name(name):
        raise shared.Mistake(
            f"{files.shown(name)}: a name may hold only lower-case letters, digits, '-' and '.', such as my-chip-2"
        )
    if out is not None and out.exists():
        raise shared.Mistake(
            f"--out {files.shown_path(out)}: is there already; a new file never replaces another"
        )
    _give(text, out)
    if out is None:
        out = catalog.folders()[0] / catalog.KINDS[_key(kind)].folder / f"{name}.yaml"
        shared.say(f"Save it as {out}", err=True)
    shared.say(f"Fill it in, then: ridgeline catalog check {out}", err=True)


def _key(kind: str) -> str:
    from ridgeline.facts import catalog

    return next(key for key, entry in catalog.KINDS.items() if kind in (key, entry.noun))


def _give(text: str, out: Path | None) -> None:
    if out is None:
        shared.say(text)
    else:
        outputs.write_text(out, text)


def _some(names: list[str]) -> str:
    return " ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _title(kind: str, name: str) -> str:
    from ridgeline.facts import catalog, document

    path = catalog.entry_path(kind, name)
    try:
        return files.one_line(str(document.read(path).get("title", ""))) if path else ""
    except document.DocumentError as error:  # a broken file of the user must not hide the others
        return f"({error})"


def _unknown(name: str, kind: str | None) -> str:
    import difflib

    from ridgeline.facts import catalog

    known = [one for key in ([kind] if kind else catalog.kinds()) for one in catalog.names(key)]
    close = difflib.get_close_matches(name.lower(), sorted(set(known)), n=5, cutoff=0.5)
    hint = f"; close: {' '.join(close)}" if close else ""
    command = f"ridgeline catalog list {kind}" if kind else "ridgeline catalog list"
    return f"unknown entry {files.shown(name)}{hint}; list all with `{command}`"
