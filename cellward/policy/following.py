"""Roots that are signed already and that the publishers' record does not have yet. Pure functions over bytes.

A root needs the keys of the root before it and its own, m of n each, and nothing else: not a hub's word, and not the
publishers'. Whoever has one that was completed may show it, and then clients take it. So the record goes on from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Root, Targets

from cellward.policy import trust
from cellward.policy.errors import BAD_ROOT, UNVERIFIED
from cellward.policy.published import verified_roots
from cellward.policy.record import Record


def newer_roots(record: Record, shown: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the roots of a chain, from version 1 on, that continue the record's; none where it has no more.

    Raises policy/bad-root where they do not verify by the record's newest, one after another.
    """
    newer = tuple(shown[len(record.roots) :])
    try:
        verified_roots((*record.roots, *newer))
    except RepositoryError as error:
        raise BAD_ROOT("the roots shown do not continue those of the record") from error
    return newer


def with_roots(record: Record, newer: Sequence[bytes]) -> Record:
    """Return the record with :func:`newer_roots`, nothing signed again.

    Raises policy/unverified where the newest root names other keys for the targets than those that signed them: then
    they are signed again with it, by a proposal.
    """
    root = trust.parse(Root, newer[-1]).signed
    if record.targets is not None:
        targets = trust.parse(Targets, record.targets)
        try:
            root.verify_delegate(Targets.type, targets.signed_bytes, targets.signatures)
        except RepositoryError as error:
            raise UNVERIFIED(f"root version {root.version} names other keys than signed the targets") from error
    found = replace(record, roots=(*record.roots, *newer))
    found.check()
    return found
