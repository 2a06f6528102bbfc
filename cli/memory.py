"""Documents this machine remembers, read back from whole payloads: nothing else says "unchanged" or "same release"."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from cellward.errors import CellwardError
from cli.output import say, short
from cli.state import memory
from cli.state.model import Key, Record, State

if TYPE_CHECKING:
    from cellward.documents.model import Deployment, Document, Release, Tombstone
    from cli.state.store import Store

    _D = TypeVar("_D", bound=Document)
else:
    _D = TypeVar("_D")


class Memory:
    """One state of the local memory with its payloads."""

    def __init__(self, store: Store, state: State, now: datetime) -> None:
        self._store = store
        self.state = state
        self._now = now

    def numbers(self, key: Key) -> tuple[int, ...]:
        """Numbers used for a cell; those beyond this machine's clock are shown, and count for nothing."""
        found = memory.numbers(self.state, key)
        for number in found:
            if number > memory.bound(self._now):
                say(f"note: clock fault: number {number} of {memory.name_of(key)} is beyond this machine's clock")
                say("  next: look at the clock, then run `cellward trust repair`")
        return found

    def newest_issued(self, key: Key) -> datetime | None:
        """Latest time of issue of what was signed here for a cell."""
        return memory.newest_issued(self.state, key, self._now)

    def newest(self, key: Key, environments: tuple[str, ...]) -> Record | None:
        """The one document that is newest in every one of these environments, None when there is no such."""
        found = {
            record.digest: record
            for name in environments
            if (record := memory.newest(self.state, key, name, self._now)) is not None
        }
        covered = all(memory.newest(self.state, key, name, self._now) is not None for name in environments)
        return next(iter(found.values())) if covered and len(found) == 1 else None

    def deployment(self, record: Record) -> Deployment | None:
        """The document of a record, None when it is another kind or its payload is gone."""
        from cellward.documents.model import Deployment

        return self._document(record, Deployment)

    def tombstone(self, record: Record) -> Tombstone | None:
        """The document of a record, None when it is another kind or its payload is gone."""
        from cellward.documents.model import Tombstone

        return self._document(record, Tombstone)

    def release(self, record: Record) -> Release | None:
        """The document of a record, None when it is another kind or its payload is gone."""
        from cellward.documents.model import Release

        return self._document(record, Release)

    def releases(self, key: Key) -> Iterator[tuple[Record, Release]]:
        """Releases of a cell known here, newest first; none that is :meth:`spoilt`."""
        for record in memory.releases(self.state, key):
            document = self.release(record)
            if document is not None and not self.spoilt(record):
                yield record, document

    def spoilt(self, record: Record) -> bool:
        """Whether a key that signed it is known as compromised or locked by now, or nobody knows whose it was."""
        if not record.own and not record.signers:
            return True
        keys, locked = self.state.keys, self.state.locked_keys
        return any(keys.get(one) == "compromised" or one in locked for one in (record.keyid, *record.signers))

    def placed(self, key: Key, environments: tuple[str, ...]) -> tuple[Record, Release] | None:
        """The release that was placed last here for a cell, in these environments rather than in others."""
        own = [
            record
            for record in self.state.documents
            if record.key == key and record.kind == "deployment" and record.own
            and record.sequence <= memory.bound(self._now)
        ]  # fmt: skip
        near = [record for record in own if set(record.environments) & set(environments)]
        for record in sorted(near or own, key=lambda one: -one.sequence):
            found = memory.find(self.state, record.release or "")
            document = None if found is None or self.spoilt(found) else self.release(found)
            if found is not None and document is not None:
                return found, document
        return None

    def payload(self, record: Record) -> bytes:
        """The whole payload of a record; raises cli/bad-state."""
        return self._store.payload(record.digest)

    def _document(self, record: Record, model: type[_D]) -> _D | None:
        from cellward.documents.model import parse_document, payload_type_of

        try:
            found = parse_document(payload_type_of(record.kind), self._store.payload(record.digest))
        except CellwardError as error:
            say(f"note: ignored {record.kind} {short(record.digest)} in local memory: {error.message}")
            return None
        return found if isinstance(found, model) else None
