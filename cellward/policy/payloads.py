"""Every payload that a draft would have signed, as JSON by its name, beside what is in force. Pure.

Metadata is read back from the very bytes that are signed, so that whatever is in them is compared. Target bytes are
signed through their digests: keyring, revocations and bindings are compared field by field as well, bundles by the
digests in the targets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeVar

from tuf.api.metadata import Root, Snapshot, Targets

from cellward.documents.differences import ABSENT, Absent, Difference, differences
from cellward.policy.model import BINDINGS_TARGET, KEYRING_ROLE
from cellward.policy.trust import digest_of, parse

if TYPE_CHECKING:
    from cellward.documents.canonical import JSON
    from cellward.policy.ceremony import Proposal
    from cellward.policy.record import Record

_Payloads = dict[str, "JSON"]
_S = TypeVar("_S", Root, Snapshot, Targets)


def signed_differences(own: Record, proposal: Proposal) -> Iterator[Difference]:
    """Return every difference between what a proposal would have signed and what the record has as signed.

    A path begins with the name of the payload. The bindings in force are not in the record, only their digest in the
    targets: where that changes, all of the new ones come.
    """
    before, after = _in_force(own), _proposed(proposal)
    for name in sorted({*before, *after}):
        if name == BINDINGS_TARGET and _keeps_bindings(own, proposal):
            continue
        yield from differences(before.get(name, ABSENT), after.get(name, ABSENT), f"{name} ")


def snapshot_differences(before: int, snapshot: bytes) -> Iterator[Difference]:
    """Return what a new snapshot says; of the last one the record has the version alone."""
    old: JSON | Absent = {"version": before} if before else ABSENT
    yield from differences(old, _signed(Snapshot, snapshot), f"{Snapshot.type} ")


def _in_force(own: Record) -> _Payloads:
    found = {Root.type: _signed(Root, own.roots[-1])}
    if own.targets is not None and own.keyring_metadata is not None:
        # Before that, nobody signed what the record has as keyring and revocations.
        found |= {Targets.type: _signed(Targets, own.targets), KEYRING_ROLE: _signed(Targets, own.keyring_metadata)}
        found |= {path: _json(data) for path, data in own.content().items()}
    return found


def _proposed(proposal: Proposal) -> _Payloads:
    draft = proposal.draft
    root = draft.record.roots[-1] if proposal.root is None else proposal.root
    found = {
        Root.type: _signed(Root, root),
        Targets.type: _signed(Targets, draft.targets),
        KEYRING_ROLE: _signed(Targets, draft.keyring),
    }
    found |= {path: _json(data) for path, data in draft.record.content().items()}
    if BINDINGS_TARGET in draft.content:
        found[BINDINGS_TARGET] = _json(draft.content[BINDINGS_TARGET])
    return found


def _keeps_bindings(own: Record, proposal: Proposal) -> bool:
    last, data = own.signed_targets(), proposal.draft.content.get(BINDINGS_TARGET)
    info = None if last is None else last.targets.get(BINDINGS_TARGET)
    return data is None or (info is not None and f"sha256:{info.hashes.get('sha256')}" == digest_of(data))


def _signed(kind: type[_S], data: bytes) -> JSON:
    """The bytes that signatures are over. TUF's canonical form writes control characters as they are."""
    payload: JSON = json.loads(parse(kind, data).signed_bytes, strict=False)
    return payload


def _json(data: bytes) -> JSON:
    value: JSON = json.loads(data)
    return value
