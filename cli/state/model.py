"""What the local state holds, as plain frozen values; format 2 of ``state/state.json``.

Invariants: a number stands for one document of its cell, for ever; floors and sequences only rise, and the state of a
key only worsens. The functions of ``memory`` keep them; a change that does not is an error here, not a new state.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

FORMAT: Final = 2
#: Formats that are read; format 1 had no locked keys.
READABLE: Final = (1, FORMAT)

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Number = Annotated[int, Field(ge=1, le=2**53 - 1)]
#: Project and cell.
Key = tuple[str, str]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, alias_generator=to_camel, populate_by_name=True)


class RoleFloor(_Part):
    """Newest version of a TUF role ever published or accepted here, and the digest of its bytes."""

    version: Number
    digest: Digest


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
    #: the hub is asked for the release anew and it is verified again before it is used.
    signers: tuple[str, ...] = ()
    delivered: bool = False

    @property
    def key(self) -> Key:
        """Project and cell."""
        return self.project, self.cell


class State(_Part):
    """Everything; ``sequences`` is by ``project/cell`` and outlives the records it came from."""

    format: Literal[2] = FORMAT
    realm: Digest
    floors: dict[str, RoleFloor] = {}
    #: Keys ever seen retired or compromised, by key id.
    keys: dict[str, Literal["retired", "compromised"]] = {}
    #: Keys that the newest signed revocations known here lock; unlike a key gone bad, a lock can be lifted.
    locked_keys: tuple[str, ...] = ()
    sequences: dict[str, Number] = {}
    documents: tuple[Record, ...] = ()
