"""What the local state holds, as plain frozen values; format 4 of ``state/state.json``.

Invariants: a number stands for one document of its cell, for ever; floors and sequences only rise, and the state of a
key only worsens; a lock goes only by a signed set that may lift it. The functions of ``memory`` and ``policy`` keep
them; a change that does not is an error here, not a new state.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from cellward.errors import CellwardError
from cellward.identity.locks import parse_lock

FORMAT: Final = 4
#: Formats that are read; format 1 had no locks, format 2 locked keys alone, without the version they were signed in,
#: and before format 4 the digest of a floor was that of a file, whose signatures anybody may add to.
READABLE: Final = (1, 2, 3, FORMAT)

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Number = Annotated[int, Field(ge=1, le=2**53 - 1)]


def _lock_name(text: str) -> str:
    try:
        same = str(parse_lock(text)) == text
    except CellwardError as error:
        raise ValueError(error.message) from error
    if not same:
        raise ValueError(f"{text!r} is not in the form a lock is compared in")
    return text


#: ``KIND/SUBJECT`` of a lock.
LockName = Annotated[str, AfterValidator(_lock_name)]
#: Project and cell.
Key = tuple[str, str]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel, populate_by_name=True)


class RoleFloor(_Part):
    """Newest version of a TUF role ever published or accepted here, and the digest of its signed part.

    The digest is empty where a format before this one had another, until the next set is accepted.
    """

    version: Number
    digest: Digest | Literal[""]


class Record(_Part):
    """A document known here; its whole payload is the blob of the same digest.

    ``own`` says that a key of this machine signed it; others are releases whose digest a person named. ``delivered``
    says that a hub took it: until then it is handed over again rather than replaced.
    """

    digest: Digest
    kind: Literal["release", "deployment", "tombstone"]
    project: str
    cell: str
    environments: tuple[str, ...] = ()
    #: 0 for a release, which has none.
    sequence: Annotated[int, Field(ge=0, le=2**53 - 1)] = 0
    issued_at: datetime
    not_after: datetime | None = None
    #: The release that a Deployment places.
    release: Digest | None = None
    #: Key that signed it here, empty before its first signature and for what others signed.
    keyid: str = ""
    own: bool = True
    #: Whose signatures counted when a person named it, for what others signed; empty after a repair lost them, then
    #: the hub is asked for the release again and it is verified again before it is used.
    signers: tuple[str, ...] = ()
    delivered: bool = False

    @property
    def key(self) -> Key:
        """Project and cell."""
        return self.project, self.cell


class State(_Part):
    """Everything; ``sequences`` is by ``project/cell`` and outlives the records it came from."""

    format: Literal[4] = FORMAT
    realm: Digest
    floors: dict[str, RoleFloor] = {}
    #: Keys ever seen retired or compromised, by key id.
    keys: dict[str, Literal["retired", "compromised"]] = {}
    #: Signed locks (``KIND/SUBJECT``), by the newest version of the keyring role known here to have each. Unlike a key
    #: gone bad a lock can be lifted: by an accepted set of at least that version that does not have it.
    locks: dict[LockName, Number] = {}
    #: The publishers' record that this machine wrote last, by its digest: made by ``init``, or signed here.
    record: Digest | None = None
    sequences: dict[str, Number] = {}
    documents: tuple[Record, ...] = ()

    @property
    def locked_keys(self) -> tuple[str, ...]:
        """Ids of the keys that are locked."""
        return tuple(sorted(name.removeprefix("key/") for name in self.locks if name.startswith("key/")))


def upgraded(value: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON of a readable format as this one's; what is malformed in it stays so.

    Floors keep their versions, and know their digests again from the next set that is accepted. A locked key of format
    2 goes with a set that is newer than what was accepted when it was written: it may have been signed and taken by no
    hub.
    """
    if value.get("format") == FORMAT:
        return value
    floors = value.get("floors")
    if isinstance(floors, dict):
        kept = {role: {**one, "digest": ""} if isinstance(one, dict) else one for role, one in floors.items()}
        value = {**value, "floors": kept}
    return {**_with_locks(value), "format": FORMAT}


def _with_locks(value: dict[str, Any]) -> dict[str, Any]:
    if "lockedKeys" not in value:
        return value
    locked = value["lockedKeys"]
    if not isinstance(locked, list) or not all(isinstance(keyid, str) for keyid in locked):
        raise ValueError("lockedKeys is not a list of key ids")
    floors = value.get("floors")
    floor = floors.get("keyring") if isinstance(floors, dict) else None
    version = floor.get("version") if isinstance(floor, dict) else None
    after = version + 1 if type(version) is int and version > 0 else 1
    kept = {name: item for name, item in value.items() if name != "lockedKeys"}
    return {**kept, "locks": {f"key/{keyid}": after for keyid in locked}}
