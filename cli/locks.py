"""``cellward lock``, ``unlock`` and ``locks``: whom the hub no longer lets speak.

No key is used: a hub may narrow. With ``--signed`` the lock stands in the policy set, and no hub lifts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.context import command, local
from cli.door.pages import every
from cli.options import (
    DEFAULT_HOME,
    DryRunOption,
    HomeOption,
    OutputOption,
    PassphraseOption,
    ProposeOption,
    RecordOption,
    SignedOption,
)
from cli.output import Column, Format, cut, say, show_list, show_one, show_table
from cli.records import Options
from cli.revocations import check_unsigned, lock_signed, unlock_signed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellward.api import schemas
    from cellward.identity.locks import Lock
    from cli.door.client import Client

WhomArgument = Annotated[
    str, typer.Argument(help="cluster/NAME, agent/UID, serial/HEX or key/SHA256.", metavar="KIND/SUBJECT")
]


@command
def lock(  # noqa: PLR0913 - options of a command
    whom: WhomArgument,
    reason: Annotated[str, typer.Option(help="Why; everybody who lists locks reads it.")],
    signed: SignedOption = False,
    record: RecordOption = None,
    propose_to: ProposeOption = None,
    dry_run: DryRunOption = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Lock an agent, a cluster, a certificate or a key: its streams end within a second, and it gets no certificate.

    Cells on the cluster keep running, and its agent still enforces and repairs: a lock stops changes, not pods.
    """
    from cellward.api import schemas
    from cellward.identity.locks import KINDS

    asked = _lock(whom, reason)
    if signed:
        lock_signed(asked, Options(home, record, dry_run, None, output, passphrase_file, propose_to))
        return
    check_unsigned(propose_to)
    kind = next(known for known in KINDS if known == asked.kind)
    try:
        body = schemas.LockRequest(kind=kind, subject=asked.subject, reason=reason, dry_run=dry_run)
    except ValueError as error:
        raise errors.BAD_OPTION("--reason has 1 to 500 characters") from error
    held = local(home).client().post("/locks", body, schemas.Lock)
    show_one(held, output, lambda: _table([held]), f"lock/{held.kind}/{held.subject}")
    if not held.clusters:
        say(f"no cluster is held by {asked} now; compare it with `cellward clusters list -o json`")
    if dry_run:
        say("nothing was locked")


@command
def unlock(  # noqa: PLR0913 - options of a command
    whom: WhomArgument,
    rekey: Annotated[
        bool, typer.Option("--rekey", help="First invalidate all certificates of the cluster; it must then join again.")
    ] = False,
    signed: SignedOption = False,
    record: RecordOption = None,
    propose_to: ProposeOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --signed: sign and keep nothing.")] = False,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Lift a lock of the hub. After a copy was found use --rekey: the copy has the certificates, too."""
    from cellward.api import schemas

    asked = _lock(whom)
    if signed and rekey:
        raise errors.BAD_OPTION("--rekey does not go with --signed: only a hub takes certificates out of force")
    if signed:
        unlock_signed(asked, Options(home, record, dry_run, None, output, passphrase_file, propose_to))
        return
    check_unsigned(propose_to)
    if dry_run:
        raise errors.BAD_OPTION("--dry-run goes with --signed here")
    client = local(home).client()
    retired: list[str] = []
    if rekey:
        held = next((found for found in all_locks(client) if (found.kind, found.subject) == _key(asked)), None)
        for name in map(_cluster_name, held.clusters if held is not None else ()):
            # Before the lock is lifted: in between, whoever has a certificate could use it.
            client.post(f"/clusters/{name}/retired-certificates", schemas.Nothing(), schemas.RetiredCertificates)
            retired.append(name)
    gone = client.delete(f"/locks/{asked.kind}/{asked.subject}", schemas.Lock)
    show_one(gone, output, lambda: _table([gone]), f"lock/{gone.kind}/{gone.subject}")
    for name in retired:
        say(f"{name} must join again with a token: cellward clusters invite {name}")


@command
def locks(home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """List locks with their reason and the clusters they hold; signed ones are lifted by whoever signs policy."""
    show_list(all_locks(local(home).client()), output, _COLUMNS, lambda item: f"lock/{item.kind}/{item.subject}")


def all_locks(client: Client) -> list[schemas.Lock]:
    """Every lock, over all pages."""
    from cellward.api import schemas

    return list(every(lambda cursor: client.get("/locks", schemas.LockList, cursor=cursor)))


def _lock(whom: str, reason: str = "") -> Lock:
    from cellward.identity.locks import parse_lock

    return parse_lock(whom, reason)


def _cluster_name(text: str) -> str:
    """A name as clusters have: it is printed as part of a command to type. Raises cli/bad-answer."""
    from cellward.documents.names import is_label

    if not is_label(text):
        raise errors.BAD_ANSWER(f"the hub names {text[:80]!r}, which cannot be the name of a cluster")
    return text


def _key(lock: Lock) -> tuple[str, str]:
    return (lock.kind, lock.subject)


_COLUMNS: tuple[Column, ...] = (
    ("lock", lambda item: f"{item.kind}/{item.subject}"),
    ("clusters", lambda item: ",".join(item.clusters) or "-"),
    ("reason", lambda item: cut(item.reason) if item.reason else "-"),
    ("set", lambda item: f"{item.created_at:%Y-%m-%d %H:%M} UTC" if item.created_at else "-"),
    ("by", lambda item: "signed" if item.signed else item.created_by or "-"),
)


def _table(items: Sequence[schemas.Lock]) -> None:
    show_table([heading for heading, _ in _COLUMNS], [[get(item) for _, get in _COLUMNS] for item in items])
