"""``cellward audit``: tail, export, verify. Verification is the stand-alone verifier's and needs no hub."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.context import command, local
from cli.home import Home
from cli.options import DEFAULT_HOME, HomeOption, OutputOption, SegmentOption, TreeHeadKeyOption
from cli.output import (
    Column,
    Format,
    flush,
    put,
    put_bytes,
    put_lines,
    say,
    show_data,
    show_lines,
    show_list,
    show_one,
    show_table,
)
from cli.views import Shown
from cli.witness import witness

if TYPE_CHECKING:
    from cellward.api import schemas
    from cli.door.client import Client

app = typer.Typer(no_args_is_help=True, help="The audit log.")

#: Seconds between two looks of --follow.
FOLLOW_SECONDS = 1.0
_PAGE = 1000
KEY_HINT = (
    "Give --hub-key and --endorsed as base64 of SubjectPublicKeyInfo, or as a PEM file; see treeHeadKey of trust.yaml."
)


_COLUMNS: tuple[Column, ...] = (
    ("index", lambda item: str(item.index)),
    ("time", lambda item: f"{item.time:%Y-%m-%d %H:%M:%S}" if item.time else "-"),
    ("writer", lambda item: item.writer),
    ("cluster", lambda item: item.cluster or "-"),
    ("action", lambda item: item.action),
    ("decision", lambda item: item.decision or "-"),
    ("object", lambda item: item.object),
    ("rule or code", lambda item: item.rule or item.code),
    ("actor", lambda item: item.actor),
)


def _name(item: schemas.AuditRecord) -> str:
    return f"record/{item.index}"


class Exported(Shown):
    """What an export wrote."""

    file: str
    bytes: int
    lines: int


@app.command()
@command
def tail(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=1000, help="How many of the newest records.")] = 20,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing what is new until Ctrl-C; JSON one object per line.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Show the newest records, oldest first."""
    from cellward.api import schemas

    client = local(home).client()
    page = client.get("/audit/records", schemas.AuditPage, limit=lines, newest=True)
    show = show_list if output is Format.table or not follow else show_lines
    show(page.items, output, _COLUMNS, _name)
    while follow:
        flush()
        if len(page.items) < _PAGE:
            time.sleep(FOLLOW_SECONDS)
        page = client.get("/audit/records", schemas.AuditPage, cursor=page.next_cursor, limit=_PAGE)
        if page.items:
            show_lines(page.items, output, _COLUMNS, _name)


@app.command()
@command
def export(
    file: Annotated[Path, typer.Argument(help='Where to write the export, NDJSON; "-" is standard output.')],
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Export the whole log for offline verification."""
    client = local(home).client()
    if str(file) == "-":
        put_bytes(client.lines("/audit/export"))
        return
    done = export_file(client, file)
    rows = [[done.file, str(done.lines), str(done.bytes)]]
    show_one(done, output, lambda: show_table(("file", "lines", "bytes"), rows), done.file)
    say(f"next: cellward audit verify {shlex.quote(done.file)}")


def export_file(client: Client, file: Path) -> Exported:
    """Write the file, all or nothing; raises cli/bad-file."""
    if file.is_dir():
        raise errors.BAD_FILE(f"{file} is a directory")
    partial = file.with_name(f".{file.name}.part")
    size = lines = 0
    try:
        with partial.open("wb") as out:
            for line in client.lines("/audit/export"):
                out.write(line)
                size += len(line)
                lines += 1
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError as error:
        raise errors.BAD_FILE(f"{file} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return Exported(file=str(file), bytes=size, lines=lines)


@app.command()
@command
def verify(  # noqa: PLR0913 - one for each option
    file: Annotated[Path, typer.Argument(help="An export made by `cellward audit export`.")],
    hub_key: TreeHeadKeyOption = "",
    endorsed: Annotated[
        list[str] | None, typer.Option(help="Statement key known to be a cluster's own; may be repeated.")
    ] = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option(help="Checkpoint that you or a witness kept; may be repeated.")
    ] = None,
    witness_key: Annotated[
        list[str] | None,
        typer.Option("--witness", help="Key of a witness, or its file: checkpoints need one's cosignature."),
    ] = None,
    segment: SegmentOption = None,
    accept_unanchored: Annotated[
        bool, typer.Option("--accept-unanchored", help="Exit 0 although only the hub vouches for a part of the log.")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Verify an export offline, with the stand-alone verifier; exit 1 when a part does not hold or is not anchored."""
    from auditverify.cli import verify as verify_export
    from auditverify.signatures import Malformed

    key = tree_head_key(local(home).home, hub_key)
    if not key:
        say("no key to compare with: this shows that the export is consistent, not whose it is")
    try:
        report = verify_export(file, key or None, endorsed or (), checkpoint or (), witness_key or (), segment or ())
    except Malformed as error:
        raise errors.BAD_OPTION(f"a key cannot be used: {error}", hint=KEY_HINT) from error
    if output is Format.table:
        put_lines(report.to_text().split("\n"))
    elif output is Format.name:
        put(f"log/{report.log_origin}")
    else:
        show_data(report.to_json(), output)
    if not report.consistent:
        raise errors.NOT_VERIFIED(f"{file} does not hold: {report.problem_count} problems")
    if not report.verified and not accept_unanchored:
        left = report.records - report.anchored
        why = f"{left} of {report.records} records are the hub's word" if key else "no tree-head key was given"
        raise errors.NOT_ANCHORED(f"{file} is consistent, and {why}")


def tree_head_key(home: Home, given: str) -> str:
    """The tree-head key as it was typed, or that of trust.yaml; empty when there is neither."""
    import base64

    if given or not home.file("trust.yaml").exists():
        return given
    return base64.b64encode(home.trust().tree_head_spki).decode()


app.command("witness")(witness)
