"""C2SP checkpoints and statements of writers."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cellward.audit.chain import ChainState
from cellward.audit.checkpoint import (
    Checkpoint,
    key_hash,
    log_origin,
    parse_checkpoint,
    sign_checkpoint,
    verify_checkpoint,
)
from cellward.audit.statement import STATEMENT_TYPE, sign_statement, verify_statement
from cellward.documents import canonical, dsse
from cellward.errors import CellwardError
from tests.fakes.refusals import refused

REALM = "sha256:" + "ab" * 32
ORIGIN = log_origin(REALM)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
HEAD = Checkpoint(ORIGIN, 7, bytes(range(32)))


class TestCheckpoint:
    """Signed tree heads."""

    def test_form_and_key_hash_are_those_of_the_specification(self) -> None:
        """Three lines, an empty one, and an em dash with SHA-256(name, 0x0A, 0x01, key)[:4] before the signature."""
        note = sign_checkpoint(HEAD, KEY).decode()
        raw = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        lines = note.split("\n")
        assert lines[:4] == [ORIGIN, "7", base64.b64encode(bytes(range(32))).decode(), ""]
        dash, name, blob = lines[4].split(" ")
        assert (dash, name, lines[5:]) == ("—", ORIGIN, [""])
        decoded = base64.b64decode(blob)
        assert decoded[:4] == hashlib.sha256(ORIGIN.encode() + b"\x0a\x01" + raw).digest()[:4] == key_hash(ORIGIN, raw)
        KEY.public_key().verify(decoded[4:], "\n".join(lines[:3]).encode() + b"\n")

    def test_note_of_another_implementation_verifies(self) -> None:
        """The published example of Go's sumdb/note: key hash and signature over its text."""
        text = b"If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
        key = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
        blob = base64.b64decode(
            "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
        )
        assert key_hash("PeterNeumann", key[1:]).hex() == "c74f20a3" == blob[:4].hex()
        Ed25519PublicKey.from_public_bytes(key[1:]).verify(blob[4:], text)

    def test_round_trip(self) -> None:
        """What was signed is what is read."""
        assert verify_checkpoint(sign_checkpoint(HEAD, KEY), ORIGIN, SPKI) == HEAD

    def test_lines_of_witnesses_and_extensions_are_allowed(self) -> None:
        """Signatures of others are skipped, extension lines are signed text."""
        note = sign_checkpoint(HEAD, KEY)
        witness = base64.b64encode(b"wxyz" + bytes(72)).decode()
        assert verify_checkpoint(note + f"— witness.example {witness}\n".encode(), ORIGIN, SPKI) == HEAD

    @pytest.mark.parametrize("at", range(0, 200, 3))
    def test_any_changed_byte_is_found(self, at: int) -> None:
        """No byte of a note can be changed."""
        note = bytearray(sign_checkpoint(HEAD, KEY))
        note[at] ^= 1
        with pytest.raises(CellwardError) as caught:
            verify_checkpoint(bytes(note), ORIGIN, SPKI)
        assert caught.value.code == "audit/bad-checkpoint"

    def test_other_key_other_log_and_second_bad_signature(self) -> None:
        """The key and the log are the verifier's choice; a bad signature beside a good one is not overlooked."""
        note = sign_checkpoint(HEAD, KEY)
        other = Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ec_key = generate_private_key(SECP256R1()).public_key()
        wrong_kind = ec_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        line = note.split(b"\n\n")[1]
        blob = bytearray(base64.b64decode(line.split(b" ")[2]))
        blob[-1] ^= 1
        doubled = note + b" ".join([*line.split(b" ")[:2], base64.b64encode(bytes(blob))]) + b"\n"
        for data, origin, key in (
            (note, ORIGIN, other), (note, ORIGIN, wrong_kind), (note, ORIGIN + "x", SPKI), (doubled, ORIGIN, SPKI),
        ):  # fmt: skip
            with pytest.raises(CellwardError) as caught:
                verify_checkpoint(data, origin, key)
            assert caught.value.code == "audit/bad-checkpoint"

    @pytest.mark.parametrize(
        "note",
        [b"", b"\n\n", b"a\n1\n\n", b"a\n1\nAAAA\n\n\xe2\x80\x94 a AAAAAAAA\n",
         b"a\n01\n" + b"A" * 43 + b"=\n\n- a b\n",
         b"a\n-1\n" + b"A" * 43 + b"=\n\n\xe2\x80\x94 a AAAAAAAA\n", b"x" * 20_000, "a\n1\n\u2014".encode()],
    )  # fmt: skip
    def test_malformed_notes(self, note: bytes) -> None:
        """V16: what is no note has a code."""
        with pytest.raises(CellwardError) as caught:
            parse_checkpoint(note)
        assert caught.value.code == "audit/bad-checkpoint"

    def test_origin_cannot_carry_lines(self) -> None:
        """A name with a line break would let its owner write the size."""
        with refused("audit/bad-checkpoint"):
            sign_checkpoint(Checkpoint("log\n9", 1, bytes(32)), KEY)


class TestStatement:
    """What a writer's key says about its chain."""

    SIGNER = dsse.Ed25519Signer.generate()
    STATE = ChainState(2, 41, "sha256:" + "cd" * 32)

    def test_round_trip(self) -> None:
        """What was signed is what is read."""
        data = sign_statement(REALM, "uid-1", self.STATE, self.SIGNER)
        assert verify_statement(data, REALM, "uid-1", self.SIGNER.public_spki_der) == self.STATE

    def test_of_another_realm_cluster_or_key(self) -> None:
        """A statement counts for one chain only."""
        data = sign_statement(REALM, "uid-1", self.STATE, self.SIGNER)
        other = dsse.Ed25519Signer.generate().public_spki_der
        for realm, uid, key in (
            ("sha256:" + "00" * 32, "uid-1", self.SIGNER.public_spki_der),
            (REALM, "uid-2", self.SIGNER.public_spki_der),
            (REALM, "uid-1", other),
        ):
            with pytest.raises(CellwardError) as caught:
                verify_statement(data, realm, uid, key)
            assert caught.value.code == "audit/bad-checkpoint"

    @pytest.mark.parametrize(
        "change", [{"seq": "41"}, {"seq": True}, {"epoch": 0}, {"schema": "x"}, {"more": 1}, {"head": None}]
    )
    def test_strict_body(self, change: dict[str, canonical.JSON]) -> None:
        """A signature does not make a malformed statement good."""
        body: dict[str, canonical.JSON] = {
            "schema": "cellward.audit-checkpoint/v1", "realm": REALM, "uid": "uid-1", "epoch": 2, "seq": 41,
            "head": self.STATE.head, **change,
        }  # fmt: skip
        data = dsse.dump_envelope(dsse.sign_document(canonical.encode(body), STATEMENT_TYPE, [self.SIGNER]))
        with pytest.raises(CellwardError) as caught:
            verify_statement(data, REALM, "uid-1", self.SIGNER.public_spki_der)
        assert caught.value.code == "audit/bad-checkpoint"

    def test_changed_payload_and_other_type(self) -> None:
        """The signature covers payload and type."""
        envelope = json.loads(sign_statement(REALM, "uid-1", self.STATE, self.SIGNER))
        changed = {
            **envelope,
            "payload": base64.b64encode(base64.b64decode(envelope["payload"]).replace(b"41", b"42")).decode(),
        }
        retyped = {**envelope, "payloadType": "application/vnd.cellward.receipt.v1+json"}
        bodies: list[canonical.JSON] = [changed, retyped, []]
        for body in bodies:
            with pytest.raises(CellwardError) as caught:
                verify_statement(canonical.encode(body), REALM, "uid-1", self.SIGNER.public_spki_der)
            assert caught.value.code == "audit/bad-checkpoint"
