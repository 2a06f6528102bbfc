"""``cellward audit witness``: keeps the tree heads of a log where its hub cannot reach them, and co-signs them.

Run it on another machine than the hub's, under another person's hands. Its directory holds the witness's own key, made
there; ``checkpoint``, the newest tree head it signed; and each earlier one beside it.

Invariant: a checkpoint is co-signed only after the whole export it closes was verified with the hub's key, its tree is
not smaller than the one signed before, and begins with the very records of that one.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.context import command, local, now
from cli.home import read_file
from cli.options import DEFAULT_HOME, HomeOption, OutputOption, SegmentOption, TreeHeadKeyOption
from cli.output import Format, say, short, show_one, show_table
from cli.state.errors import STATE_BUSY
from cli.views import Shown

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from auditverify.report import Report

#: Files of a witness.
KEY, VKEY, CHECKPOINT = "witness.key", "witness.vkey", "checkpoint"
_MAX = 64 * 1024


class Witnessed(Shown):
    """A tree head that was co-signed."""

    log_origin: str
    size: int
    root: str
    checkpoint: str
    witness: str


@command
def witness(
    directory: Annotated[Path, typer.Argument(help="Directory of this witness; made with a new key if absent.")],
    file: Annotated[Path | None, typer.Argument(help="An export; default: ask the hub logged in to for one.")] = None,
    hub_key: TreeHeadKeyOption = "",
    segment: SegmentOption = None,
    name: Annotated[str, typer.Option(help="Name of a new witness, in its signatures.")] = "cellward-witness",
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Verify the log against the tree head kept here, and co-sign its newest one; a smaller or other log is refused."""
    from auditverify.cli import read_key
    from cli.audit import KEY_HINT, export_file, tree_head_key

    place = local(home)
    key = tree_head_key(place.home, hub_key)
    if not key:
        raise errors.BAD_OPTION("a witness needs the hub's tree-head key", hint=KEY_HINT)
    with _opened(directory, name) as signer, tempfile.TemporaryDirectory() as scratch:
        if file is None:
            file = Path(scratch) / "audit.ndjson"
            export_file(place.client(), file)
        done = _signed(directory, file, read_key(key), signer, segment or ())
    rows = [[done.log_origin, str(done.size), short(done.root), done.checkpoint]]
    show_one(done, output, lambda: show_table(("log", "size", "root", "checkpoint"), rows), f"checkpoint/{done.size}")
    say(f"give it to auditors with {directory / VKEY}: audit verify --checkpoint {CHECKPOINT} --witness {VKEY}")


@contextmanager
def _opened(directory: Path, name: str) -> Iterator[Ed25519PrivateKey]:
    """The witness's key, made when there is none; one command at a time."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from cellward.audit.cosignature import check_witness_name, witness_vkey
    from cellward.runtime.files import write_atomic

    check_witness_name(name)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        try:
            # Not waited for: it may be held as long as a slow hub takes for an export.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise STATE_BUSY(f"another command holds {directory}") from error
        if not (directory / KEY).exists():
            if (directory / CHECKPOINT).exists():
                raise errors.EXISTS(f"{directory} holds checkpoints of a witness, but no key")
            made = Ed25519PrivateKey.generate()
            pem = made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            # The key last: a half-made witness makes a new one.
            write_atomic(directory / VKEY, witness_vkey(name, made.public_key()).encode() + b"\n", 0o644)
            write_atomic(directory / KEY, pem)
        try:
            key = serialization.load_pem_private_key(read_file(directory / KEY, _MAX), None)
        except (ValueError, TypeError) as error:
            raise errors.BAD_FILE(f"{directory / KEY} is not the key of a witness") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise errors.BAD_FILE(f"{directory / KEY} is not the key of a witness")
        yield key


def _signed(
    directory: Path, file: Path, hub_key: bytes, signer: Ed25519PrivateKey, segments: Sequence[Path]
) -> Witnessed:
    """Verify, co-sign and keep; raises cli/not-witnessed."""
    from auditverify.signatures import Malformed, load_key
    from auditverify.verify import Anchors, verify_export
    from cellward.audit.cosignature import cosign
    from cellward.runtime.files import write_atomic

    before = directory / CHECKPOINT
    kept = [read_file(before, _MAX)] if before.exists() else []
    try:
        report = verify_export(file, hub_key=hub_key, anchors=Anchors(checkpoints=kept), segments=segments)
    except Malformed as error:
        raise errors.BAD_OPTION(f"the tree-head key cannot be used: {error}") from error
    if not report.consistent:
        raise errors.NOT_WITNESSED(f"{file.name} is not what this witness may sign: {_why(report)}")
    vkey = read_file(directory / VKEY, _MAX).decode()
    name, raw = vkey.partition("+")[0], load_key(hub_key).public_bytes_raw()
    note = cosign(report.checkpoint, raw, name, signer, int(now().timestamp()))
    target = directory / f"checkpoint-{report.size}"
    for path in (target, before):
        write_atomic(path, note, 0o644)
    return Witnessed(
        log_origin=report.log_origin,
        size=report.size,
        root=report.root,
        checkpoint=os.fspath(target),
        witness=vkey.strip(),
    )


def _why(report: Report) -> str:
    found = [f"{problem.code}: {problem.message}" for problem in report.problems[:3]]
    return "; ".join(found) or "its checkpoint does not hold"
