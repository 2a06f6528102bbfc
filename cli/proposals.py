"""What a proposal says, in lines for a person: all of it, and what of it differs from what is in force.

Pure. In force is what the publishers' record here has and signatures cover, verified from the first root on; before the
first publication that is the root alone. A line begins with
``+`` for what comes, ``-`` for what goes and ``~`` for what changes. Digests and key ids are whole: a person compares
them with what somebody else reads out, and a part of one can be searched for. An id comes before words that people
chose, which are quoted. The first lines are for reading and leave things out; :func:`fields` leaves out nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from tuf.api.metadata import Role, Root, Targets

from cellward.documents.differences import quoted
from cellward.documents.fields import format_time
from cellward.policy.model import BINDINGS_TARGET
from cellward.policy.payloads import signed_differences
from cellward.policy.trust import parse
from cli.output import cut

if TYPE_CHECKING:
    from cellward.documents.keyring import KeyringEntry
    from cellward.documents.revocations import Revocations, SignedLock, SignedQuarantine
    from cellward.policy.ceremony import Proposal
    from cellward.policy.record import Record

_V = TypeVar("_V")


def changes(own: Record, proposal: Proposal) -> list[str]:
    """Return every difference between a proposal and what is in force, one line each; but for lives, which restart."""
    draft = proposal.draft
    before, after = own.signed_targets(), parse(Targets, draft.targets).signed
    had, gets = ({entry.keyid: author_line(entry) for entry in one.keyring.entries} for one in (own, draft.record))
    held, holds = (_revocations(one.revocations) for one in (own, draft.record))
    if before is None:
        # Nothing is in force, and no signature covers what the record has to publish: all of it comes.
        had, held = {}, {}
    return [
        *_roles_change(_roles(own.root, before), _roles(proposal.next_root, after)),
        *_differences("bundle ", _bundles(before), _bundles(after), _digest_change),
        *_bindings_change(before, draft.content.get(BINDINGS_TARGET)),
        *_differences("", had, gets, lambda _, old, new: f"author {old} -> {new}", "author {1}"),
        *_differences("", held, holds, lambda _, old, new: f"{old} -> {new}", "{1}"),
    ]


def fields(own: Record, proposal: Proposal) -> list[str]:
    """Return every difference of every payload to be signed, field by field; a field that nobody knows is one of them.

    The lives, which begin again, and the numbers are among them.
    """
    return [str(one) for one in signed_differences(own, proposal)]


def life_lines(proposal: Proposal) -> dict[str, str]:
    """Return until when root, targets and keyring hold once the proposal is published."""
    return {role: f"{end:%Y-%m-%d %H:%M:%S} UTC" for role, end in proposal.ends().items()}


def role_lines(proposal: Proposal) -> dict[str, str]:
    """Return threshold and key ids of every role once the proposal is published."""
    found = _roles(proposal.next_root, parse(Targets, proposal.draft.targets).signed)
    return {name: _role_line(role) for name, role in found.items()}


def bundle_lines(proposal: Proposal) -> list[str]:
    """Return the bundles with their digests."""
    found = _bundles(parse(Targets, proposal.draft.targets).signed)
    return [f"{path} {digest}" for path, digest in sorted(found.items())]


def binding_lines(data: bytes | None) -> list[str]:
    """Return lines about bindings and what is signed with them; none where they stay as they are."""
    from cellward.policy.bindings import parse_bindings

    if data is None:
        return []
    found = parse_bindings(data)
    lines = [
        f"{one.name}: {one.bundle} {one.bundle_digest}, {one.mode}, {one.on_stale} after {one.staleness_seconds} s"
        f", on {json.dumps(one.selector.to_json(), sort_keys=True)}, with {json.dumps(one.parameters, sort_keys=True)}"
        for one in found.bindings
    ]
    thresholds = ", ".join(f"{kind} {count}" for kind, count in sorted(found.thresholds.items()))
    return [
        *lines,
        f"signers needed: {thresholds or 'one of each kind'}",
        f"objects one change may delete: {found.prune_limit}",
        f"the hub's own key counts in: {', '.join(found.hub_attestation) or 'no environment'}",
    ]


def author_line(entry: KeyringEntry) -> str:
    """Return what a key of the keyring may sign, from when and until when; its owner is a word that somebody chose."""
    kinds, projects, environments = map(",".join, (entry.kinds, entry.projects, entry.environments))
    return (
        f"{entry.keyid} of {quoted(entry.owner)}, {entry.state}: {kinds} of {projects} in {environments} "
        f"from {format_time(entry.not_before)} until {format_time(entry.not_after)}, {quoted(entry.scheme)}"
    )


def revocation_lines(found: Revocations) -> list[str]:
    """Return signed locks, quarantines and minimum times."""
    return [*_revocations(found).values()]


def _revocations(found: Revocations) -> dict[str, str]:
    """Lines by what they are about: another reason is a change, not another lock."""
    locks = {f"{one.kind}/{one.subject}": one for one in found.locks}
    closed = {f"{one.project}/{one.cell} in {one.environment}": one for one in found.quarantines}
    minimum = {project: format_time(moment) for project, moment in found.minimum_issued_at.items()}
    return {
        **{f"lock {name}": f"locks {name} since {_since(one)}" for name, one in locks.items()},
        **{f"quarantine {name}": f"quarantines {name} since {_since(one)}" for name, one in closed.items()},
        **{f"minimum {name}": f"first contact in {name} takes nothing before {at}" for name, at in minimum.items()},
    }


def _since(one: SignedLock | SignedQuarantine) -> str:
    return f"{format_time(one.issued_at)}: {cut(one.reason)}"


def _differences(
    what: str, before: Mapping[str, _V], after: Mapping[str, _V], change: Callable[[str, _V, _V], str],
    alone: str = "{0}",
) -> Iterator[str]:  # fmt: skip
    for name in sorted({*before, *after}):
        if name not in after:
            yield "- " + what + alone.format(name, before[name])
        elif name not in before:
            yield "+ " + what + alone.format(name, after[name])
        elif before[name] != after[name]:
            yield "~ " + what + change(name, before[name], after[name])


def _roles(root: Root, targets: Targets | None) -> dict[str, Role]:
    delegations = None if targets is None else targets.delegations
    delegated = (None if delegations is None else delegations.roles) or {}
    return {**root.roles, **delegated}


def _roles_change(before: Mapping[str, Role], after: Mapping[str, Role]) -> Iterator[str]:
    new = {name: role for name, role in after.items() if name not in before}
    yield from (f"+ role {name}: {_role_line(role)}" for name, role in sorted(new.items()))
    yield from _differences("", {**before, **new}, after, _role_change)


def _role_line(role: Role) -> str:
    return f"{role.threshold} of {len(role.keyids)}: {', '.join(sorted(role.keyids))}"


def _role_change(name: str, old: Role, new: Role) -> str:
    added, removed = (sorted({*one.keyids} - {*other.keyids}) for one, other in ((new, old), (old, new)))
    moved = [f"+{key}" for key in added] + [f"-{key}" for key in removed]
    kept = f"{old.threshold} of {len(old.keyids)} -> {new.threshold} of {len(new.keyids)}"
    return f"role {name}: {kept}; keys {' '.join(moved) or 'as they are'}"


def _bundles(targets: Targets | None) -> dict[str, str]:
    files = {} if targets is None else targets.targets
    return {path: info.hashes.get("sha256", "") for path, info in files.items() if path != BINDINGS_TARGET}


def _digest_change(path: str, old: str, new: str) -> str:
    return f"{path} {old} -> {new}"


def _bindings_change(before: Targets | None, data: bytes | None) -> Iterator[str]:
    """The bindings in force are not in the record, only their digest: where they change, all of the new are shown."""
    from cellward.policy.trust import digest_of

    old = None if before is None else before.targets.get(BINDINGS_TARGET)
    if data is None or (old is not None and f"sha256:{old.hashes.get('sha256')}" == digest_of(data)):
        return
    yield from (f"{'+' if old is None else '~'} bindings become: {line}" for line in binding_lines(data))
