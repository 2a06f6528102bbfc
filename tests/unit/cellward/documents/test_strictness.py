"""A signed payload is understood whole or refused: at every depth of every kind, and in the keyring."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cellward.cells.spec import spec_of
from cellward.documents import canonical, dsse
from cellward.documents.keyring import Keyring
from cellward.documents.model import Release, build_document, parse_document, payload_type_of
from cellward.errors import CellwardError
from tests.fakes.refusals import refused
from tests.vectors.generate import GOLDEN, documents, signer

DOCUMENTS = documents()
#: Objects whose keys are names that somebody chose; one more there is one more of those, not an unknown field.
MAPS = {"labels", "components", "ports", "env", "endpoints", "config", "volumes", "requests", "limits", "annotations"}
Path = tuple[str | int, ...]


def objects(value: Any, path: Path = ()) -> Iterator[Path]:
    """Return where the objects of a value are."""
    if isinstance(value, dict):
        yield path
        for key, item in value.items():
            yield from objects(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from objects(item, (*path, index))


def body_of(kind: str) -> Any:
    """Return the body of a kind as JSON."""
    return json.loads(build_document(DOCUMENTS[kind])[1])


def read(kind: str, payload: bytes) -> None:
    """Read a payload as whoever uses it does: of a release, also what is in it."""
    document = parse_document(payload_type_of(kind), payload)
    if isinstance(document, Release):
        spec_of(document)


def at(body: Any, path: Path) -> Any:
    """Return what is at a path."""
    for step in path:
        body = body[step]
    return body


def named(places: list[tuple[str, Path]]) -> Any:
    """Return the parameters of a test over places."""
    ids = [f"{kind}-{'.'.join(map(str, path))}" for kind, path in places]
    return pytest.mark.parametrize(("kind", "path"), places, ids=ids)


PLACES = [(kind, path) for kind in DOCUMENTS for path in objects(body_of(kind))]


@named([(kind, path) for kind, path in PLACES if not path or path[-1] not in MAPS])
def test_no_object_takes_a_field_that_is_not_known(kind: str, path: Path) -> None:
    """What an older agent leaves out may be what narrows: it refuses instead."""
    body = body_of(kind)
    at(body, path)["somethingNew"] = True
    with refused("cells/spec-too-new" if "spec" in path else "document/unknown-field"):
        read(kind, canonical.encode(body))


@named([(kind, path) for kind, path in PLACES if at(body_of(kind), path)])
def test_no_object_has_a_key_twice(kind: str, path: Path) -> None:
    """Two readers would read two documents under one signature; it is refused before anything else is looked at."""
    body = body_of(kind)
    found = at(body, path)
    key = next(iter(found))
    found["\x00mark"] = found[key]
    payload = json.dumps(body, separators=(",", ":"), sort_keys=True).encode()
    payload = payload.replace(b'"\\u0000mark"', json.dumps(key).encode())
    with pytest.raises(CellwardError) as caught:
        read(kind, payload)
    assert caught.value.code == "document/duplicate-key"
    with refused("document/duplicate-key"):
        dsse.sign_document(payload, payload_type_of(kind), (signer(1),))


def test_the_keyring_is_as_strict() -> None:
    """It says whose signature counts."""
    body = json.loads((GOLDEN / "keyring.json").read_bytes())
    for path in objects(body):
        changed = copy.deepcopy(body)
        at(changed, path)["somethingNew"] = True
        with refused("document/unknown-field"):
            Keyring.from_json(changed)
