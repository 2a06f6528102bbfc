"""The publishers' record: what security signed last, kept and committed in their own repository. Values over bytes.

Whoever signs policy again (a refresh, a new author, a revocation) takes it from here and never from a hub, which could
show an older set or parts of several. Written by ``cellward policy publish``, ``author``, ``trust upgrade`` and the
signed locks; a refresh only reads it. Invariants: a record that does not hold together by its own signatures, from the
first root on, is refused whole, so what is signed again was signed before and belongs together; and once something was
published, no field that no signature covers is ever signed. Each is one of these:

- *roots*: each signed by the one before; *targets* and *keyring*: by the newest root, and by those targets. What only
  an older root's keys signed is refused: such a key may be the reason for the rotation.
- *content*: what the signed keyring role lists, byte for byte.
- *keyringRole*: what the signed targets delegate to. It changes by a proposal alone, which shows it to every signer.
- *realm*, *seen*: derived from the others.
- *snapshot*: no more than a lower bound for the next number, which is bounded by the signer's clock.

Before the first publication content and keyringRole are covered by nothing: who signs them compares them with what he
made on that machine, or is shown all of it.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import cast

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from cellward.documents import canonical
from cellward.documents.dsse import keyid_of
from cellward.documents.fields import DIGEST, Fields
from cellward.documents.keyring import Keyring
from cellward.documents.revocations import Revocations
from cellward.documents.strict import strict_json
from cellward.errors import CellwardError
from cellward.policy import trust
from cellward.policy.errors import BAD_RECORD, RECORD_OLDER
from cellward.policy.floors import PolicyFloors, RoleFloor
from cellward.policy.model import KEYRING_ROLE, KEYRING_TARGET, REVOCATIONS_TARGET
from cellward.policy.published import verified_roots

RECORD_SCHEMA = "cellward.policy-record/v1"
MAX_RECORD = 8 * 1024 * 1024
_FIELDS = ("schema", "realm", "seen", "snapshot", "content", "keyringRole", "roots", "targets", "keyring")


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Public keys (SubjectPublicKeyInfo, DER) of one role, and how many must sign."""

    keys: tuple[bytes, ...]
    threshold: int = 1

    @classmethod
    def delegated_by(cls, targets: Targets) -> RoleKeys | None:
        """Return the keys that targets delegate the keyring role to, None for no keys that are there."""
        roles = {} if targets.delegations is None else targets.delegations.roles or {}
        role = roles.get(KEYRING_ROLE)
        if role is None or targets.delegations is None or not {*role.keyids} <= {*targets.delegations.keys}:
            return None
        keys = (trust.spki_of(targets.delegations.keys[keyid], KEYRING_ROLE) for keyid in role.keyids)
        return cls(tuple(keys), role.threshold)

    def is_delegated_by(self, targets: Targets) -> bool:
        """Whether targets delegate the keyring role to these keys, with this threshold."""
        found = RoleKeys.delegated_by(targets)
        return found is not None and ({*found.keys}, found.threshold) == ({*self.keys}, self.threshold)


@dataclass(frozen=True, slots=True)
class Record:
    """What was published last.

    Attributes:
        roots: every root from version 1 on.
        keyring: the keyring to publish next, or that was published.
        revocations: likewise.
        keyring_role: the keys that sign both, as the targets delegate to them.
        targets: signed metadata of targets, None before the first publication.
        keyring_metadata: signed metadata of the keyring role, likewise.
        snapshot: highest version of a snapshot signed with it; a number to go on from, and nothing else.
    """

    roots: tuple[bytes, ...]
    keyring: Keyring
    revocations: Revocations
    keyring_role: RoleKeys
    targets: bytes | None = None
    keyring_metadata: bytes | None = None
    snapshot: int = 0

    @property
    def realm(self) -> str:
        """The realm of its first root."""
        return trust.realm_of(self.roots[0])

    @property
    def root(self) -> Root:
        """The newest root; the chain was verified when the record was read."""
        return trust.parse(Root, self.roots[-1]).signed

    def keyids(self, role: str) -> tuple[str, ...]:
        """Return the ids of the keys that sign a role next: by the newest root, or as the targets will delegate."""
        if role == KEYRING_ROLE:
            return tuple(keyid_of(spki) for spki in self.keyring_role.keys)
        return tuple(self.root.roles[role].keyids)

    def content(self) -> dict[str, bytes]:
        """Return the targets of the keyring role by path."""
        return {
            KEYRING_TARGET: canonical.encode(self.keyring.to_json()),
            REVOCATIONS_TARGET: self.revocations.to_bytes(),
        }

    def signed_targets(self) -> Targets | None:
        """Return the targets as they were signed last."""
        return None if self.targets is None else trust.parse(Targets, self.targets).signed

    def role_in_force(self) -> RoleKeys:
        """Return the keys of the keyring role that the signed targets delegate to; before there are any, its own."""
        signed = self.signed_targets()
        found = None if signed is None else RoleKeys.delegated_by(signed)
        return self.keyring_role if found is None else found

    def base(self, role: str) -> RoleFloor | None:
        """Return version and identity of what a role would be based on, None for nothing."""
        data = self.targets if role == Targets.type else self.keyring_metadata
        return None if data is None else trust.floor_in(role, data)

    def floors(self) -> PolicyFloors:
        """Return the floors that whoever published it must not fall below."""
        roles = {Root.type: trust.floor_of(self.root)}
        for role in (Targets.type, KEYRING_ROLE):
            found = self.base(role)
            if found is not None:
                roles[role] = found
        return PolicyFloors(roles).with_keys(self.keyring)

    def check_newest(self, seen: PolicyFloors, proposed: bytes | None = None) -> None:
        """Refuse to be the base of anything while newer policy is known to be signed (policy/record-older).

        ``seen`` is what this machine remembers and what verified of what a hub shows. A hub that shows less changes
        nothing: only this record is signed again, and agents compare what it is based on with what they have.

        ``proposed`` is a root that follows the record's, on its way to be published: whoever has the file may have
        shown it to a hub before, and then it is no newer than what is about to be published.
        """
        mine = dict(self.floors().roles)
        known = seen.get(Root.type)
        if proposed is not None and known == trust.floor_in(Root.type, proposed):
            mine[Root.type] = known
        for role in (Root.type, Targets.type, KEYRING_ROLE):
            known, here = seen.get(role), mine.get(role)
            if known is None or (here is not None and known.version < here.version):
                continue
            if here is None or known.version > here.version or known.differs_from(here):
                version = here.version if here is not None else "none"
                raise RECORD_OLDER(f"{role} version {known.version} was signed already, the record has {version}")

    def check(self, *, changed: bool = False) -> None:
        """Verify everything in it by the signatures in it, from the first root on; raises policy/bad-record.

        With ``changed`` its keyring, revocations and keyring role are those to publish next, which nobody has signed
        yet: then they are not compared with what was signed. That is how a proposal carries it, and compares them with
        its own draft.
        """
        try:
            root = verified_roots(self.roots)
            realms = {self.realm, self.keyring.realm, self.revocations.realm}
            if len(realms) != 1:
                raise BAD_RECORD("root, keyring and revocations are of different realms")
            if (self.targets is None) != (self.keyring_metadata is None):
                raise BAD_RECORD("there are targets without a keyring, or the reverse")
            if self.targets is not None and self.keyring_metadata is not None:
                self._check_published(root, self.targets, self.keyring_metadata, changed=changed)
            self.floors()
        except RepositoryError as error:
            raise BAD_RECORD(f"what is in it does not verify: {error}") from error

    def _check_published(self, root: Root, targets: bytes, keyring: bytes, *, changed: bool) -> None:
        metadata = trust.parse(Targets, targets)
        # By the newest root alone: a rotation signs the targets again, and a key that it takes out may be stolen.
        root.verify_delegate(Targets.type, metadata.signed_bytes, metadata.signatures)
        trust.check_delegation(metadata.signed)
        held: Metadata[Targets] = trust.parse(Targets, keyring)
        metadata.signed.verify_delegate(KEYRING_ROLE, held.signed_bytes, held.signatures)
        trust.check_keyring(held.signed)
        if changed:
            return
        if not self.keyring_role.is_delegated_by(metadata.signed):
            # No signature covers the field, and the targets of next time delegate to it.
            raise BAD_RECORD("its keyringRole is not what the signed targets delegate to")
        for path, data in self.content().items():
            held.signed.targets[path].verify_length_and_hashes(data)

    def to_bytes(self, *, changed: bool = False) -> bytes:
        """Return the file's bytes: JSON that a diff can show, one value a line. ``changed`` as :meth:`check` has it."""
        self.check(changed=changed)
        value = {
            "schema": RECORD_SCHEMA,
            "realm": self.realm,
            "seen": _seen(self),
            "snapshot": self.snapshot,
            "content": {"keyring": self.keyring.to_json(), "revocations": self.revocations.to_json()},
            "keyringRole": {
                "keys": [_text(spki) for spki in self.keyring_role.keys],
                "threshold": self.keyring_role.threshold,
            },
            "roots": [_text(data) for data in self.roots],
            "targets": None if self.targets is None else _text(self.targets),
            "keyring": None if self.keyring_metadata is None else _text(self.keyring_metadata),
        }
        return json.dumps(value, indent=2, ensure_ascii=True).encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, *, root: bytes, changed: bool = False) -> Record:
        """Read a record that begins with ``root``, the one this side trusts; raises policy/bad-record.

        ``changed`` as :meth:`check` has it.
        """
        try:
            fields = Fields(_strict(data), _FIELDS, "the record", error=BAD_RECORD, unknown=BAD_RECORD)
            if fields.text("schema") != RECORD_SCHEMA:
                raise BAD_RECORD(f"schema {fields.text('schema')[:80]!r} is not {RECORD_SCHEMA!r}")
            content = Fields(fields.raw("content"), ("keyring", "revocations"), "its content", error=BAD_RECORD)
            roots = fields.raw("roots")
            if not isinstance(roots, list) or not roots:
                raise BAD_RECORD("roots is not a list with the first root in it")
            record = cls(
                tuple(_bytes(one) for one in roots),
                Keyring.from_json(content.raw("keyring")),
                Revocations.from_json(content.raw("revocations")),
                _role(fields.raw("keyringRole")),
                _optional(fields.raw("targets")),
                _optional(fields.raw("keyring")),
                snapshot=fields.integer("snapshot", 0),
            )
        except CellwardError as error:
            raise BAD_RECORD(f"the record cannot be read: {error.message}") from error
        if record.roots[0] != root:
            raise BAD_RECORD("the record begins with another root than this side trusts")
        record.check(changed=changed)
        seen = (_seen(record), _seen_as_files(record))
        if fields.text("realm", DIGEST) != record.realm or fields.raw("seen") not in seen:
            raise BAD_RECORD("what the record says of itself is not what is in it")
        return record


def _role(value: canonical.JSON) -> RoleKeys:
    fields = Fields(value, ("keys", "threshold"), "its keyringRole", error=BAD_RECORD)
    keys = tuple(_bytes(text) for text in fields.texts("keys"))
    return RoleKeys(keys, fields.integer("threshold", 1, max(1, len(keys))))


def _seen(record: Record) -> dict[str, canonical.JSON]:
    return {role: {"version": floor.version, "signed": floor.digest} for role, floor in record.floors().roles.items()}


def _seen_as_files(record: Record) -> dict[str, canonical.JSON]:
    """Return what a version wrote that took the digest of a file for what was signed."""
    files = {Root.type: record.roots[-1], Targets.type: record.targets, KEYRING_ROLE: record.keyring_metadata}
    return {
        role: {"version": floor.version, "digest": trust.digest_of(data)}
        for role, floor in record.floors().roles.items()
        if (data := files[role]) is not None
    }


def _strict(data: bytes) -> canonical.JSON:
    if len(data) > MAX_RECORD:
        raise BAD_RECORD(f"the record is larger than {MAX_RECORD} bytes")
    try:
        return cast("canonical.JSON", strict_json(data))
    except ValueError as error:
        raise BAD_RECORD(f"the record is not strict JSON: {error}") from error


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _optional(value: object) -> bytes | None:
    return None if value is None else _bytes(value)


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(value if isinstance(value, str) else "!", validate=True)
    except ValueError as error:
        raise BAD_RECORD("metadata in the record is not base64") from error
