"""Values of peers: what connections of a cell lead to, from files, local memory, or a digest that a person named.

What only a hub shows is verified and printed with its date and signer, and then the command stops: a person names the
digest with --peer, or nobody uses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cellward.errors import CellwardError
from cli import errors
from cli.output import say, short
from cli.state.records import digest_of, record_of

if TYPE_CHECKING:
    from cellward.cells.load import CellManifest
    from cellward.documents.model import Release
    from cli.door.documents import HubDocuments, Vouched
    from cli.memory import Memory
    from cli.state.model import Key, Record


class Peers:
    """Released specs by cell, each with where it is from; ``learned`` is what a person named now, to be remembered."""

    def __init__(self, memory: Memory, hub: HubDocuments) -> None:
        self._memory = memory
        self._hub = hub
        self.specs: dict[Key, Mapping[str, Any]] = {}
        self.learned: list[tuple[Record, bytes]] = []

    def name(self, digests: Iterable[str]) -> None:
        """Take the releases that a person named; raises what verification raises."""
        from cli.state.memory import find

        for digest in digests:
            known = find(self._memory.state, digest)
            # What a stolen key signed is asked for again, and refused: that it was named once does not make it good.
            release = None if known is None or self._memory.spoilt(known) else self._memory.release(known)
            if release is None:
                release = self._learn(self._hub.release(check_digest(digest, "--peer")))
            key = (release.project, release.cell)
            if key in self.specs:
                raise errors.BAD_OPTION(f"--peer names two releases of {'/'.join(key)}")
            self.specs[key] = release.spec

    def own(self, key: Key, environments: tuple[str, ...]) -> None:
        """Take what was released here last for a cell that is released now: a version says one thing."""
        found = self._memory.placed(key, environments)
        if found is not None:
            self.specs[key] = found[1].spec

    def need(self, key: Key, asked_by: Key, environments: tuple[str, ...]) -> bool:
        """Find a peer of a cell in memory; where only the hub has one, tell a person and raise cli/peer-not-named."""
        if key in self.specs:
            return True
        found = self._memory.placed(key, environments) or next(self._memory.releases(key), None)
        if found is not None:
            record, release = found
            self.specs[key] = release.spec
            say(
                f"peer {'/'.join(key)} of {'/'.join(asked_by)}: version {release.version} of "
                f"{release.issued_at:%Y-%m-%d %H:%M} UTC, from local memory ({short(record.digest)})"
            )
            return True
        shown = self._hub.shown(*key)
        if shown is not None:
            told = _told(shown)
            raise errors.PEER_NOT_NAMED(
                f"{'/'.join(asked_by)} connects to {'/'.join(key)}, which only the hub shows: {told}",
                hint=f"Compare it with its owner, then add --peer {shown.digest}; or add its file.",
            )
        return False

    def _learn(self, found: Vouched[Release]) -> Release:
        say(f"peer {found.document.project}/{found.document.cell}: {_told(found)}, named with --peer")
        record = record_of(
            found.document, digest_of(found.payload), others=tuple(signer.keyid for signer in found.signers)
        )
        self.learned.append((record, found.payload))
        return found.document


def check_digest(text: str, option: str) -> str:
    """Return a whole digest; raises cli/bad-option."""
    from cellward.documents.fields import DIGEST

    if not DIGEST.match(text):
        raise errors.BAD_OPTION(f"{option} {text[:80]!r} is not sha256: and 64 hex digits")
    return text


def chosen_fallback(text: str, keys: Sequence[Key], memory: Memory) -> str | None:
    """What --fallback says: previous, none, a whole digest, or the beginning of one in local memory."""
    from cellward.documents.model import PREVIOUS

    if text == PREVIOUS:
        return PREVIOUS
    if text == "none":
        return None
    if len(keys) != 1:
        raise errors.BAD_OPTION("--fallback with a digest is for one cell", hint="Apply that cell alone.")
    begin = text if text.startswith("sha256:") else f"sha256:{text}"
    known = [record.digest for record, _ in memory.releases(keys[0]) if record.digest.startswith(begin)]
    if len(known) == 1 and len(begin) >= len("sha256:") + 12:
        return known[0]
    try:
        return check_digest(begin, "--fallback")
    except CellwardError as error:
        raise errors.BAD_OPTION(
            f"--fallback {text[:80]!r} is not previous, none, a digest, or the first 12 digits of one release of "
            f"{'/'.join(keys[0])} in local memory"
        ) from error


def peers_of(manifest: CellManifest) -> list[Key]:
    """Cells that a cell connects to."""
    return [
        (connection.project or manifest.key[0], connection.cell)
        for connection in manifest.cell.spec.connections
        if connection.cell is not None
    ]


def peers_of_spec(project: str, spec: Mapping[str, Any]) -> list[Key]:
    """The same of a released spec."""
    return [
        (str(connection.get("project") or project), str(connection["cell"]))
        for connection in spec.get("connections", ())
        if connection.get("cell")
    ]


def _told(found: Vouched[Release]) -> str:
    owners = ", ".join(sorted({signer.owner for signer in found.signers}))
    when = f"{found.document.issued_at:%Y-%m-%d %H:%M} UTC"
    return f"version {found.document.version} of {when}, signed by {owners}, {found.digest}"
