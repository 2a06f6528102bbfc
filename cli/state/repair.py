"""Making a damaged local state readable again, from what is on this machine alone.

Nothing a hub says enters here, so no hub can lower a floor or a number: what is kept is the highest of what the index,
the index before it and the payloads on disk say. Only what is a clock fault by this machine's clock is taken out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from cellward.documents.fields import DIGEST
from cellward.errors import CellwardError
from cli.state.errors import STATE_FORMAT
from cli.state.memory import faults, name_of, remember, without_faults
from cli.state.model import READABLE, LockName, Number, Record, RoleFloor, State, upgraded
from cli.state.records import record_of_payload
from cli.state.store import Store

_FLOORS, _NUMBERS, _RECORDS = TypeAdapter(RoleFloor), TypeAdapter(Number), TypeAdapter(Record)
_LOCKS = TypeAdapter(dict[LockName, Number])


@dataclass(frozen=True, slots=True)
class Repaired:
    """The state as it can be kept, and a sentence for each thing that changed."""

    state: State
    done: tuple[str, ...]


def repaired(store: Store, realm: str, now: datetime) -> Repaired:
    """Return what can be kept; writes nothing. Raises cli/state-format for what a newer version wrote."""
    done: list[str] = []
    state = _read(store, realm, done)
    on_disk = list(_from_blobs(store, realm))
    placed = {one.release for one in (*state.documents, *on_disk) if one.own and one.kind == "deployment"}
    for found in on_disk:
        if not any(one.digest == found.digest for one in state.documents):
            state = _with(state, _owned(found, placed), done)
    done += [
        f"took out the {fault.what}, {fault.number}: it is beyond this machine's clock" for fault in faults(state, now)
    ]
    state = without_faults(state, now)
    missing = [one for one in state.documents if not _has_payload(store, one)]
    done += [f"forgot {one.kind} {one.digest}: its payload is missing; its number stays used" for one in missing]
    gone = {one.digest for one in missing}
    kept = tuple(one for one in state.documents if one.digest not in gone)
    return Repaired(state.model_copy(update={"documents": kept}), tuple(done))


def _read(store: Store, realm: str, done: list[str]) -> State:
    try:
        return store.read()
    except CellwardError as error:
        if error.code != "cli/bad-state":
            raise
        done.append(error.message)
    state = State(realm=realm)
    for path in (store.previous, store.file):
        try:
            data = path.read_bytes()
        except OSError:
            continue
        state = _salvaged(state, data, done)
    return state


def _salvaged(state: State, data: bytes, done: list[str]) -> State:
    """Take over each part of an index that is well formed, where it is higher or new."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return state
    if not isinstance(value, dict) or value.get("realm") != state.realm:
        return state
    if type(value.get("format")) is int and value["format"] not in READABLE:
        raise STATE_FORMAT(f"format {value['format']} is none of {READABLE}")
    locked = value.get("lockedKeys")
    if locked is not None:
        value["lockedKeys"] = [one for one in locked if isinstance(one, str)] if isinstance(locked, list) else []
    state = _with_numbers(state, upgraded(value))
    documents = value.get("documents")
    for item in documents if isinstance(documents, list) else ():
        try:
            state = _with(state, _RECORDS.validate_json(json.dumps(item)), done)
        except ValidationError:
            continue
    return state


def _with_numbers(state: State, value: Mapping[str, Any]) -> State:
    """Raise floors and numbers, and worsen keys, by what is well formed."""
    floors, keys, sequences = dict(state.floors), dict(state.keys), dict(state.sequences)
    for role, floor in _parts(_FLOORS, value.get("floors")):
        here = floors.get(role)
        same = here is not None and floor.version == here.version and not here.digest
        if here is None or floor.version > here.version or same:
            floors[role] = floor
    for keyid, kind in _mapping(value.get("keys")).items():
        if kind in {"retired", "compromised"} and keys.get(keyid) != "compromised":
            keys[keyid] = kind
    for name, number in _parts(_NUMBERS, value.get("sequences")):
        sequences[name] = max(number, sequences.get(name, 0))
    written = value.get("record")
    locks = dict(state.locks)
    for part in _mapping(value.get("locks")).items():
        try:
            ((name, version),) = _LOCKS.validate_json(json.dumps(dict((part,)))).items()
        except ValidationError:
            continue
        locks[name] = max(version, locks.get(name, 0))
    return state.model_copy(
        update={
            "floors": floors,
            "keys": keys,
            "sequences": sequences,
            "record": written if isinstance(written, str) and DIGEST.match(written) else state.record,
            "locks": dict(sorted(locks.items())),
        }
    )


def _parts(adapter: TypeAdapter[Any], value: object) -> Iterator[tuple[str, Any]]:
    for name, part in _mapping(value).items():
        try:
            yield name, adapter.validate_json(json.dumps(part))
        except ValidationError:
            continue


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _with(state: State, record: Record, done: list[str]) -> State:
    try:
        return remember(state, record)
    except CellwardError as error:
        done.append(f"left out {record.kind} {record.digest} of {name_of(record.key)}: {error.message}")
        return state


def _from_blobs(store: Store, realm: str) -> Iterator[Record]:
    """Records of the payloads on disk: signed here or named by a person, for nothing else is kept."""
    for _, data in store.blobs():
        record = record_of_payload(data, realm)
        if record is not None:
            yield record


def _owned(record: Record, placed: set[str | None]) -> Record:
    """Say whose a payload was that no index names: a release is ours only where a Deployment of ours places it.

    Deployments and tombstones are kept only when they were signed here. A release may also be a peer's, which a person
    named; who signed it is lost with the index, so it is verified again before it is used again.
    """
    return record if record.kind != "release" or record.digest in placed else record.model_copy(update={"own": False})


def _has_payload(store: Store, record: Record) -> bool:
    try:
        store.payload(record.digest)
    except CellwardError:
        return False
    return True
