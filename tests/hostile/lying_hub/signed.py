"""What keys signed: a spy on every way in which a private key of the command line signs.

Two signed payloads are *the same but for the clock* when they differ in nothing but numbers and times that a machine
makes by its own clock at that moment; the digest of something that was made in the same run stands for that something.
What is left is the **form** of a payload, a text to compare.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from cellward.audit import cosignature
from cellward.documents.dsse import Ed25519Signer
from cellward.policy.publisher import Draft

_CLOCK = {"sequence", "issuedAt", "notAfter", "notBefore"}


class Signed(list[bytes]):
    """Every byte string that was signed, in order."""

    def __init__(self) -> None:
        super().__init__()
        #: Files of policy that were drafted meanwhile, by their digest: content, and metadata with its signatures.
        self.files: dict[str, bytes] = {}


@contextmanager
def spy() -> Iterator[Signed]:
    """Collect every byte string that a private key signs."""
    signed = Signed()
    sign, cosign, draft = Ed25519Signer.sign, cosignature.cosign, Draft.signed

    def spied_sign(self: Ed25519Signer, data: bytes) -> bytes:
        signed.append(data)
        return sign(self, data)

    def spied_cosign(note: bytes, *rest: Any) -> bytes:
        signed.append(note.split(b"\n\n")[0])
        return cosign(note, *rest)

    def spied_draft(self: Draft, *rest: Any) -> Draft:
        made = draft(self, *rest)
        for data in (made.targets, made.keyring, *made.content.values(), *made.record.content().values()):
            signed.files[digest(data)] = data
        return made

    with (
        mock.patch.object(Ed25519Signer, "sign", spied_sign),
        mock.patch.object(cosignature, "cosign", spied_cosign),
        mock.patch.object(Draft, "signed", spied_draft),
    ):
        yield signed


def payload_of(data: bytes) -> bytes:
    """The payload of a DSSE pre-authentication encoding; anything else as it is."""
    if not data.startswith(b"DSSEv1 "):
        return data
    _, size, rest = data.split(b" ", 2)
    rest = rest[int(size) + 1 :]
    length, payload = rest.split(b" ", 1)
    assert len(payload) == int(length)
    return payload


def digest(payload: bytes) -> str:
    """What a payload is known by."""
    return f"sha256:{hashlib.sha256(payload).hexdigest()}"


def kept(home: Path) -> dict[str, bytes]:
    """Whole payloads of the local memory of a home, by digest."""
    return {digest(file.read_bytes()): file.read_bytes() for file in (home / "state" / "blobs").glob("*")}


@dataclass(frozen=True)
class Known:
    """What the forms of a run's payloads are made with.

    ``payloads`` and ``files`` are by digest; ``before`` are the times in the publishers' record before: what stays of
    its keyring and revocations keeps them.
    """

    payloads: Mapping[str, bytes] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    before: frozenset[str] = frozenset()


def record_times(home: Path) -> frozenset[str]:
    """Every time of keyring and revocations in the record of a home, with what it is of."""
    file = home / "policy-record.json"
    if not file.exists():
        return frozenset()
    content = json.loads(file.read_text())["content"]
    revocations = content["revocations"]
    entries = [*content["keyring"]["entries"], *revocations["locks"], *revocations["quarantines"]]
    times = [_time_of(one, name) for one in entries for name in _CLOCK & set(one)]
    return frozenset([*times, *map(_text, revocations["minimumIssuedAt"].items())])


def _time_of(entry: Mapping[str, Any], name: str) -> str:
    about = [entry.get(part) for part in ("keyid", "kind", "subject", "project", "cell", "environment")]
    return _text([about, name, entry[name]])


def form(payload: bytes, known: Known) -> str:
    """The form of a payload."""
    try:
        body: Any = json.loads(payload)
    except ValueError:
        return payload.decode()
    if "schema" in body:
        return _document(body, known)
    return _metadata(body, known) if "_type" in body else payload.decode()


def _document(body: dict[str, Any], known: Known) -> str:
    plain = {name: value for name, value in body.items() if name not in _CLOCK}
    release = known.payloads.get(str(plain.get("releaseDigest")))
    if release is not None:
        plain["releaseDigest"] = form(release, known)
    return _text(plain)


def _metadata(body: dict[str, Any], known: Known) -> str:
    plain = {name: value for name, value in body.items() if name not in {"version", "expires"}}
    kind = body["_type"]
    if kind == "targets":
        plain["targets"] = {path: _target(path, info, known) for path, info in body["targets"].items()}
    elif kind == "snapshot":
        plain["meta"] = {name: _listed(info, known) for name, info in body["meta"].items()}
    elif kind == "root" and body["version"] == 1:
        # Made with the keys of the moment: the number of keys and how they are told apart is what can be compared.
        sizes = {name: (len(role["keyids"]), role["threshold"]) for name, role in body["roles"].items()}
        plain["roles"], plain["keys"] = sizes, sorted(key["keytype"] for key in body["keys"].values())
    return _text(plain)


def _target(path: str, info: Any, known: Known) -> Any:
    data = known.files.get(f"sha256:{info['hashes']['sha256']}")
    if data is None or not path.startswith("keyring/"):
        return info
    body = json.loads(data)
    return {name: _aged(value, known) for name, value in body.items()}


def _aged(value: Any, known: Known) -> Any:
    """A list or mapping of a keyring or of revocations without the times that are new."""
    if isinstance(value, dict):
        return {name: at if _text((name, at)) in known.before else "new" for name, at in value.items()}
    if not isinstance(value, list):
        return value
    return [
        {name: part for name, part in one.items() if name not in _CLOCK or _time_of(one, name) in known.before}
        for one in value
    ]


def _listed(info: Any, known: Known) -> Any:
    """Metadata named by a snapshot: what was made in this run by its form, anything else by its digest."""
    data = known.files.get(f"sha256:{info['hashes']['sha256']}")
    return info if data is None else form(json.dumps(json.loads(data)["signed"]).encode(), known)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
