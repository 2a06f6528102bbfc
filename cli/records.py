"""The publishers' record on disk, and what this machine may compare it with before anything is signed from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellward.runtime.files import write_atomic
from cli.context import Local
from cli.home import Trust, read_file

if TYPE_CHECKING:
    from cellward.api import schemas
    from cellward.policy.floors import PolicyFloors
    from cellward.policy.published import RepositoryState
    from cellward.policy.publisher import Publication
    from cellward.policy.record import Record
    from cli.door.client import Client
    from cli.output import Format

DEFAULT_RECORD = "policy-record.json"


@dataclass(frozen=True, slots=True)
class Options:
    """What every command that signs policy, keyring or revocations is given."""

    home: Path
    record: Path | None
    dry_run: bool
    wait: float | None
    output: Format
    passphrase_file: Path | None
    propose: Path | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """What a command that signs policy begins with.

    Attributes:
        record: the publishers' record.
        path: where it lies.
        raw: its bytes, as they were read.
        seen: what this machine remembers, and what verified of what the hub shows.
        served: whether the hub shows any policy; of use for advice alone.
        roots: the roots that the hub shows, verified one by one from the record's first on.
        shown: what verified of what the hub shows, alone.
    """

    place: Local
    trust: Trust
    client: Client
    record: Record
    path: Path
    raw: bytes
    seen: PolicyFloors
    served: bool = True
    roots: tuple[bytes, ...] = ()
    shown: PolicyFloors | None = None

    def keep(self, record: Record, *, signed: bool = False) -> None:
        """Write the record, and what it revokes into memory; durable before anything made from it leaves this machine.

        ``signed`` says that this machine signed something in it, which it may only with a memory of the realm: then
        having written it is one, see :mod:`cli.first_policy`.

        Raises policy/record-older where another command wrote it meanwhile: what that one signed would be lost, and
        with it maybe a revocation.
        """
        from cellward.policy.errors import RECORD_OLDER
        from cellward.policy.record import MAX_RECORD
        from cli.state.policy import narrowed, with_record

        data = record.to_bytes()
        with self.place.home.state(self.trust).change() as change:
            if read_file(self.path, MAX_RECORD) != self.raw:
                raise RECORD_OLDER(f"another command changed {self.path} meanwhile, so nothing was published")
            write_atomic(self.path, data, 0o644)
            # Whether or not a hub takes it: a stolen key is one from the moment that it was signed.
            change.state = narrowed(change.state, record)
            if signed:
                change.state = with_record(change.state, record)

    def upload(self, publication: Publication) -> schemas.PublicationResult:
        """Hand a publication to the hub, then remember it."""
        from cellward.api import schemas
        from cli.state.policy import version_of, with_locks, with_policy

        body = schemas.Publication(
            metadata=[schemas.MetadataFile(role=f.role, version=f.version, data=f.data) for f in publication.metadata],
            targets=[schemas.TargetFile(digest=digest, data=data) for digest, data in publication.targets.items()],
        )
        result = self.client.post("/policy/publications", body, schemas.PublicationResult)
        with self.place.home.state(self.trust).change() as change:
            change.state = with_policy(change.state, publication.floors)
            if publication.record is not None:
                record = publication.record
                change.state = with_locks(change.state, record.revocations, version_of(record))
        return result


def record_path(place: Local, given: Path | None) -> Path:
    """Where the record is."""
    return given or place.home.file(DEFAULT_RECORD)


def read_record(path: Path, trust: Trust) -> Record:
    """Read the record; raises policy/no-record, policy/bad-record."""
    return _read(path, trust)[1]


def _read(path: Path, trust: Trust) -> tuple[bytes, Record]:
    from cellward.policy.errors import NO_RECORD
    from cellward.policy.record import MAX_RECORD, Record

    if not path.exists():
        raise NO_RECORD(f"{path} does not exist", file=path)
    raw = read_file(path, MAX_RECORD)
    return raw, Record.from_bytes(raw, root=read_file(trust.root_file))


def base_of(place: Local, given: Path | None) -> Base:
    """Read the record, and everything it is compared with; raises policy/record-older where it is not the newest.

    Nothing that the hub shows enters what is signed: it only makes this refuse, or begin from a higher number.
    """
    base = look(place, given)
    base.record.check_newest(base.seen)
    return base


def look(place: Local, given: Path | None) -> Base:
    """Read the record, and everything it is compared with; the caller calls ``Record.check_newest``."""
    from cellward.policy.published import seen_in
    from cli.state.policy import policy_floors

    trust = place.home.trust()
    path = record_path(place, given)
    raw, record = _read(path, trust)
    client = place.trusted_client(trust)
    remembered = policy_floors(place.home.state(trust).read())
    state = _shown(client, trust)
    shown = seen_in(state, record.roots)
    seen = remembered.merged(shown)
    return Base(place, trust, client, record, path, raw, seen, state.targets is not None, state.roots, shown)


def _shown(client: Client, trust: Trust) -> RepositoryState:
    from cellward.api import schemas
    from cellward.policy.published import RepositoryState

    served = client.get("/policy/metadata", schemas.PolicyMetadata)
    own = read_file(trust.root_file)
    return RepositoryState((own, *served.roots[1:]), served.targets, served.keyring, served.snapshot)
