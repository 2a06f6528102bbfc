"""Signing by several people: a proposal travels from one to the next as a file, and each adds the signatures he can.

Pure values over bytes. Invariants: a proposal names what it was made from, and signs nothing of what was signed before;
what it shows is what its own bytes name, role by role, with key ids that are those of their keys and lives that are
bounded (:meth:`Proposal.check`, :meth:`Proposal.check_times`), and what was signed stops no later command; a key signs
only roles it belongs to, by the root there is, the root proposed, or the targets proposed; and nothing of it can be
published before every threshold is reached (:func:`complete`).
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from cellward.documents import canonical
from cellward.documents.fields import Fields
from cellward.documents.keyring import check_following
from cellward.documents.numbers import MAX_AHEAD, check_number
from cellward.documents.strict import strict_json
from cellward.errors import CellwardError
from cellward.policy import trust
from cellward.policy.bindings import parse_bindings
from cellward.policy.client import check_authors
from cellward.policy.errors import BAD_PROPOSAL
from cellward.policy.model import BINDINGS_TARGET, KEYRING_ROLE
from cellward.policy.publisher import LIVES, Draft, complete_root
from cellward.policy.record import Record
from cellward.policy.signing import sign_metadata

if TYPE_CHECKING:
    from datetime import datetime

    from cellward.documents.dsse import Ed25519Signer

PROPOSAL_SCHEMA = "cellward.policy-proposal/v1"
MAX_PROPOSAL = 256 * 1024 * 1024
_FIELDS = ("schema", "record", "root", "targets", "keyring", "fresh", "content")


@dataclass(frozen=True, slots=True)
class SignatureCount:
    """How far one role of a proposal is signed; ``root`` counts by the root there is, ``new root`` by the next one."""

    role: str
    have: int
    need: int


@dataclass(frozen=True, slots=True)
class _Check:
    """One file, and who delegates to those that must sign it."""

    name: str
    file: str
    delegator: Root | Targets
    role: str
    metadata: Metadata[Root] | Metadata[Targets]


@dataclass(frozen=True, slots=True)
class Proposal:
    """A draft, and the next root if there is to be one."""

    draft: Draft
    root: bytes | None = None

    @property
    def next_root(self) -> Root:
        """The root that holds once this is published."""
        return self.draft.record.root if self.root is None else trust.parse(Root, self.root).signed

    def roles_of(self, keyid: str) -> tuple[str, ...]:
        """Return the files that a key may sign and has not signed."""
        return tuple(role for role, keyids, signed in self._open() if keyid in keyids - signed)

    def _open(self) -> list[tuple[str, set[str], set[str]]]:
        """Each file to be signed, the keys that may, and those whose signature is there and holds."""
        found: dict[str, tuple[set[str], set[str]]] = {}
        for one in self._checks():
            keyids, signed = found.setdefault(one.file, (set(), set()))
            delegated = one.delegator.get_delegated_role(one.role)
            keyids.update(delegated.keyids)
            metadata = one.metadata
            result = one.delegator.get_verification_result(one.role, metadata.signed_bytes, metadata.signatures)
            signed.update(result.signed)
        return [(file, keyids, signed) for file, (keyids, signed) in found.items()]

    def _checks(self) -> list[_Check]:
        targets = trust.parse(Targets, self.draft.targets)
        found: list[_Check] = []
        if self.root is not None:
            root = trust.parse(Root, self.root)
            found.append(_Check(Root.type, Root.type, self.draft.record.root, Root.type, root))
            found.append(_Check("new root", Root.type, root.signed, Root.type, root))
        if Targets.type in self.draft.fresh:
            found.append(_Check(Targets.type, Targets.type, self.next_root, Targets.type, targets))
        if KEYRING_ROLE in self.draft.fresh:
            keyring = trust.parse(Targets, self.draft.keyring)
            found.append(_Check(KEYRING_ROLE, KEYRING_ROLE, targets.signed, KEYRING_ROLE, keyring))
        return found

    def ends(self) -> dict[str, datetime]:
        """Return until when root, targets and keyring hold once it is published."""
        targets, keyring = (trust.parse(Targets, data).signed for data in (self.draft.targets, self.draft.keyring))
        return {Root.type: self.next_root.expires, Targets.type: targets.expires, KEYRING_ROLE: keyring.expires}

    def signed_by(self, signer: Ed25519Signer) -> Proposal:
        """Return it with the signatures a key may add."""
        roles = self.roles_of(signer.keyid)
        draft, root = self.draft, self.root
        if root is not None and Root.type in roles:
            root = sign_metadata(trust.parse(Root, root), (signer,))
        if Targets.type in roles:
            draft = replace(draft, targets=sign_metadata(trust.parse(Targets, draft.targets), (signer,)))
        if KEYRING_ROLE in roles:
            draft = replace(draft, keyring=sign_metadata(trust.parse(Targets, draft.keyring), (signer,)))
        return Proposal(draft, root)

    def standing(self) -> tuple[SignatureCount, ...]:
        """Return how many valid signatures each file has, and how many it needs."""
        found = []
        for one in self._checks():
            metadata = one.metadata
            result = one.delegator.get_verification_result(one.role, metadata.signed_bytes, metadata.signatures)
            found.append(SignatureCount(one.name, len(result.signed), result.threshold))
        return tuple(found)

    def to_bytes(self) -> bytes:
        """Return the file's bytes."""
        value = {
            "schema": PROPOSAL_SCHEMA,
            "record": _text(self.draft.record.to_bytes(changed=True)),
            "root": None if self.root is None else _text(self.root),
            "targets": _text(self.draft.targets),
            "keyring": _text(self.draft.keyring),
            "fresh": sorted(self.draft.fresh),
            "content": {path: _text(data) for path, data in sorted(self.draft.content.items())},
        }
        return json.dumps(value, indent=1).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, *, own: Record) -> Proposal:
        """Read a proposal that was made from the record at hand; raises policy/bad-proposal, policy/bad-record."""
        proposal = cls.read(data, own=own)
        proposal.check(own)
        return proposal

    @classmethod
    def read(cls, data: bytes, *, own: Record) -> Proposal:
        """Read a proposal of the same realm without :meth:`check`; raises policy/bad-proposal, policy/bad-record."""
        if len(data) > MAX_PROPOSAL:
            raise BAD_PROPOSAL(f"the proposal is larger than {MAX_PROPOSAL} bytes")
        try:
            value = strict_json(data)
        except ValueError as error:
            raise BAD_PROPOSAL(f"the proposal is not strict JSON: {error}") from error
        fields = Fields(value, _FIELDS, "the proposal", error=BAD_PROPOSAL, unknown=BAD_PROPOSAL)
        if fields.text("schema") != PROPOSAL_SCHEMA:
            raise BAD_PROPOSAL("the proposal is of another schema")
        root, fresh, content = fields.raw("root"), fields.texts("fresh"), fields.raw("content")
        if not isinstance(content, dict) or not {*fresh} <= {Targets.type, KEYRING_ROLE}:
            raise BAD_PROPOSAL("the proposal has no content, or roles that there are none of")
        record = Record.from_bytes(_bytes(fields.raw("record")), root=own.roots[0], changed=True)
        draft = Draft(
            record, _bytes(fields.raw("targets")), _bytes(fields.raw("keyring")), frozenset(fresh),
            {path: _bytes(text) for path, text in content.items()},
        )  # fmt: skip
        return cls(draft, None if root is None else _bytes(root))

    def check(self, own: Record) -> None:
        """Refuse what was not made from ``own``, or does not hold together (policy/bad-proposal)."""
        record, draft = self.draft.record, self.draft
        if (record.roots, record.targets, record.keyring_metadata) != (own.roots, own.targets, own.keyring_metadata):
            raise BAD_PROPOSAL("the proposal was made from another record than the one here")
        targets, keyring = trust.parse(Targets, draft.targets).signed, trust.parse(Targets, draft.keyring).signed
        self._check_root()
        trust.check_delegation(targets)
        trust.check_keyring(keyring)
        self._check_keys(own, targets)
        for role, signed, before in (
            (Targets.type, targets, own.targets), (KEYRING_ROLE, keyring, own.keyring_metadata),
        ):  # fmt: skip
            if role not in draft.fresh and (draft.targets if role == Targets.type else draft.keyring) != before:
                raise BAD_PROPOSAL(f"the proposal changes {role} without saying so")
            if role in draft.fresh and trust.base_of(signed) != own.base(role):
                raise BAD_PROPOSAL(f"the proposed {role} was not made from the one there is")
            if role in draft.fresh and {*signed.unrecognized_fields} != {trust.BASE_FIELD}:
                raise BAD_PROPOSAL(f"the proposed {role} says more than its signers are shown")
        self._check_content(own, targets, keyring)
        self._check_bindings(own, targets)

    def _check_root(self) -> None:
        if self.root is None:
            return
        before, after = self.draft.record.root, self.next_root
        if after.version != before.version + 1:
            raise BAD_PROPOSAL("the proposed root does not follow the one there is")
        trust.check_root(after)
        if after.unrecognized_fields != before.unrecognized_fields:
            raise BAD_PROPOSAL("the proposed root says more than its signers are shown")

    def _check_content(self, own: Record, targets: Targets, keyring: Targets) -> None:
        """Compare every byte there is with the one role that may list it; never with both, where one could hide one."""
        last = own.signed_targets()
        had = {} if last is None else last.targets
        for path, info in targets.targets.items():
            # Otherwise a signer is not shown what he signs.
            if path not in self.draft.content and had.get(path) != info:
                raise BAD_PROPOSAL(f"the proposal changes {path}, and does not have it")
        if not {*self.draft.content} <= {*targets.targets}:
            raise BAD_PROPOSAL("the proposal has content that its targets do not name")
        for listed, content in (
            (targets.targets, self.draft.content), (keyring.targets, self.draft.record.content()),
        ):  # fmt: skip
            for path, data in content.items():
                if listed[path] != TargetFile.from_data(path, data, ["sha256"]):
                    raise BAD_PROPOSAL(f"{path} is not what the proposal would have signed")

    def _check_bindings(self, own: Record, targets: Targets) -> None:
        """Refuse targets without their bindings, or bindings without their bundles: no agent and no hub takes them."""
        data, last = self.draft.content.get(BINDINGS_TARGET), own.signed_targets()
        if data is None:
            # What the bindings name is not at hand, so all that there was is to be there.
            if Targets.type in self.draft.fresh and (last is None or targets.targets != last.targets):
                raise BAD_PROPOSAL(
                    "the proposed targets are others than those in force, and have no bindings with them"
                )
            return
        found = parse_bindings(data)
        if found.realm != own.realm:
            raise BAD_PROPOSAL("the proposed bindings belong to another realm")
        for one in found.bindings:
            info = targets.targets.get(one.bundle)
            if info is None or one.bundle_digest != f"sha256:{info.hashes.get('sha256')}":
                raise BAD_PROPOSAL(f"binding {one.name} names a bundle that the proposed targets do not have")

    def _check_keys(self, own: Record, targets: Targets) -> None:
        if not self.draft.record.keyring_role.is_delegated_by(targets):
            # Nobody is shown it, and the targets of next time would delegate to it.
            raise BAD_PROPOSAL("the keyringRole proposed is not what the targets proposed delegate to")
        try:
            own.floors().with_keys(self.draft.record.keyring)
            check_authors(self.draft.record.keyring, trust.hub_keys((*self._roots(), self.next_root)))
        except CellwardError as error:
            raise BAD_PROPOSAL(f"agents would refuse the keyring: {error.message}") from error

    def _roots(self) -> tuple[Root, ...]:
        return tuple(trust.parse(Root, data).signed for data in self.draft.record.roots)

    def is_in(self, own: Record) -> bool:
        """Whether a record is what becomes of this once it is published: it was submitted, and maybe did not arrive."""
        roots = (*self.draft.record.roots, *([] if self.root is None else [self.root]))
        made = (roots, self.draft.targets, self.draft.keyring)
        return made == (own.roots, own.targets, own.keyring_metadata)

    def check_times(self, own: Record, now: datetime) -> None:
        """Refuse numbers ahead of the clock, and lives that are not what the roles and keys are given.

        A number of the future, signed now, would hold once the clock is there (document/number-ahead). A life beyond
        the role's would outlast every later ceremony, and less than half of it is a proposal that lay about, or one
        made to run out (policy/bad-proposal). The keyring is to follow the one in force (document/bad-keyring).
        """
        for role, data in ((Targets.type, self.draft.targets), (KEYRING_ROLE, self.draft.keyring)):
            if role in self.draft.fresh:
                check_number(trust.parse(Targets, data).signed.version, now, f"the proposed version of {role}")
        if KEYRING_ROLE in self.draft.fresh:
            before = None if own.keyring_metadata is None else own.keyring
            check_following(before, self.draft.record.keyring, now)
        for role, end in self.ends().items():
            if role in self.draft.fresh or (role == Root.type and self.root is not None):
                life = LIVES[role]
                if not now + life / 2 <= end <= now + life + MAX_AHEAD:
                    raise BAD_PROPOSAL(
                        f"the proposed {role} would hold until {end:%Y-%m-%d %H:%M:%S} UTC; it is given "
                        f"{life.days} days, of which no more than half may have gone by"
                    )


def complete(proposal: Proposal) -> Draft:
    """Return a draft with its root in place; raises policy/bad-root below a threshold of the old or the new root."""
    record = proposal.draft.record
    if proposal.root is None:
        return proposal.draft
    root = complete_root(record.roots, proposal.root)
    return replace(proposal.draft, record=replace(record, roots=(*record.roots, root)))


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(value: canonical.JSON) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except ValueError as error:
        raise BAD_PROPOSAL("a part of the proposal is not base64") from error
