"""Ed25519 keys that are nobody's: found by arithmetic here, refused wherever one is read to verify with."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Root

from auditverify.signatures import Malformed, load_key
from cellward.audit.checkpoint import key_hash, verify_checkpoint
from cellward.audit.vkey import parse_vkey
from cellward.documents.dsse import ED25519, keyid_of, load_public_key
from cellward.documents.keyring import Keyring
from cellward.errors import CellwardError
from cellward.identity.keys import load_signing_spki
from cellward.identity.points import weakness_of
from cellward.policy.signing import tuf_key
from cellward.policy.trust import check_root
from tests.fakes.refusals import refused
from tests.vectors.generate import REALM, entry

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
PREFIX = bytes.fromhex("302a300506032b6570032100")
Point = tuple[int, int]


def add(a: Point, b: Point) -> Point:
    """Add two points of the curve, by its definition."""
    cross = D * a[0] * b[0] * a[1] * b[1] % P
    x = (a[0] * b[1] + a[1] * b[0]) * pow(1 + cross, -1, P) % P
    return x, (a[1] * b[1] + a[0] * b[0]) * pow(1 - cross, -1, P) % P


def point(y: int) -> Point | None:
    """Find an x to a y, None when there is none."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x, y) if x * x % P == square else None


def torsion() -> set[Point]:
    """All points of small order: what is left of any points multiplied by the order of the large group."""
    order = 2**252 + 27742317777372353535851937790883648493
    found: set[Point] = set()
    for y in range(2, 60):
        start = point(y)
        if start is None:
            continue
        left, power, number = (0, 1), start, order
        while number:
            if number & 1:
                left = add(left, power)
            power, number = add(power, power), number >> 1
        found.add(left)
        found |= {(-x % P, y) for x, y in found}
    return found


SMALL = sorted({y for _, y in torsion()})
#: Every encoding of them: either sign, and y beyond the prime where it fits.
WEAK = [
    (form | sign << 255).to_bytes(32, "little")
    for y in SMALL
    for form in (y, y + P)
    if form < 2**255
    for sign in (0, 1)
]


def root_with(raw: bytes) -> Root:
    """A root whose targets such a key signs, as it would come from a file."""
    root = Root(consistent_snapshot=True)
    root.add_key(SSlibKey(keyid_of(PREFIX + raw), "ed25519", "ed25519", {"public": raw.hex()}), "targets")
    return root


#: Who reads keys, and the code of the refusal; the offline verifier reads them by itself.
READERS: list[tuple[str, Callable[[bytes], object]]] = [
    ("document/bad-key", lambda raw: load_public_key(PREFIX + raw, ED25519)),
    ("identity/bad-key", lambda raw: load_signing_spki(PREFIX + raw)),
    ("policy/bad-root", lambda raw: tuf_key(PREFIX + raw)),
    ("policy/bad-root", lambda raw: check_root(root_with(raw))),
    (
        "audit/bad-checkpoint",
        lambda raw: parse_vkey(f"o+{key_hash('o', raw).hex()}+{base64.b64encode(bytes([1]) + raw).decode()}"),
    ),
]


def test_there_are_eight_points_of_small_order() -> None:
    """Five y coordinates: three with one x or none of either sign, two with two."""
    assert len(torsion()) == 8
    assert len(SMALL) == 5


@pytest.mark.parametrize("raw", WEAK, ids=lambda raw: raw.hex()[:8] + raw.hex()[-2:])
def test_a_key_of_small_order_is_refused_everywhere(raw: bytes) -> None:
    """Keyring, root, statement, log and the offline verifier: nobody verifies anything with it."""
    assert weakness_of(raw)
    for code, reader in READERS:
        with refused(code):
            reader(raw)
    with pytest.raises(Malformed, match="small order"):
        load_key(PREFIX + raw)


def test_a_keyring_with_such_a_key_is_refused() -> None:
    """A keyring signed by security may be wrong as well; nobody's signature must not become an author's."""
    body = Keyring(REALM, 1, (entry(1, "ann"),)).to_json()
    spki = PREFIX + WEAK[0]
    body["entries"][0] |= {"publicKey": base64.b64encode(spki).decode(), "keyid": keyid_of(spki)}  # type: ignore[index,call-overload,operator]
    with pytest.raises(CellwardError) as caught:
        Keyring.from_json(body)
    assert caught.value.code == "document/bad-key"


def test_real_keys_pass() -> None:
    """Keys made by anybody are none of these."""
    for _ in range(20):
        raw = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
        assert not weakness_of(raw)
        for _, reader in READERS:
            reader(raw)
        load_key(PREFIX + raw)
    assert weakness_of(b"\xff" * 32)
    assert weakness_of(b"")


def test_a_checkpoint_by_such_a_key_is_none() -> None:
    """The agent pins the log's key at first contact: one of small order would sign any tree."""
    root = base64.b64encode(b"\0" * 32).decode()
    raw = WEAK[0]
    blob = base64.b64encode(key_hash("o", raw) + b"\1" + b"\0" * 63).decode()
    with pytest.raises(CellwardError, match="cannot be used"):
        verify_checkpoint(f"o\n1\n{root}\n\n\u2014 o {blob}\n".encode(), "o", PREFIX + raw)
