"""The demonstration's own judgement: it must not call something refused that was not, or for another reason."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from auditverify.verify import verify_lines
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.names import CellKey
from cellward.errors import CellwardError
from cellward.policy import trust
from cellward.policy.publisher import sign_timestamp
from cellward.policy.trust import MetadataSet
from hub.audit.service import AuditLog
from hub.store.log import AuditEvent
from tests.fakes.audit_writer import REALM, AuditWriter
from tests.fakes.clock import ManualClock
from tests.fakes.policy import PolicyWorld, denying, now
from tests.fakes.store import scratch_store
from tools.demo.scenes.audit import TAMPERINGS, end_cut_off, one_byte_changed
from tools.demo.scenes.certificate import Answer, Outcome
from tools.demo.scenes.certificate import holds as certificate_holds
from tools.demo.scenes.forgery import Refused, forge_targets
from tools.demo.scenes.theft import Attack

# -- forged policy ----------------------------------------------------------------------------------------------------


def _forged(world: PolicyWorld, signer: Ed25519Signer, publisher: Ed25519Signer) -> MetadataSet:
    state = world.state
    assert state.targets is not None
    assert state.snapshot is not None
    assert state.keyring is not None
    snapshot, targets = forge_targets(world.root, state.targets, state.snapshot, signer, publisher)
    timestamp = sign_timestamp(
        world.timestamp_version + 1, snapshot, world.hub_key, now=now(), life=trust.TIMESTAMP_MAX_LIFE / 2
    )
    return MetadataSet(state.roots, timestamp, snapshot.data, targets.data, state.keyring)


@pytest.mark.parametrize(
    ("by_publisher", "about", "not_about"), [(True, "targets", "snapshot"), (False, "snapshot", "targets")]
)
def test_forged_targets_are_wrong_in_one_thing(by_publisher: bool, about: str, not_about: str) -> None:
    """Under a real snapshot it is the targets' signature that is refused; otherwise it would never be looked at."""
    world = PolicyWorld()
    world.publish(denying("Bad"))
    publisher = world.publisher_key if by_publisher else Ed25519Signer.generate()
    with pytest.raises(CellwardError) as caught:
        trust.verify_set(_forged(world, Ed25519Signer.generate(), publisher))
    assert caught.value.code == "policy/unverified"
    both = [{"cluster": name, "code": caught.value.code, "message": caught.value.message} for name in ("eu-1", "us-1")]
    assert Refused("policy/unverified", about).by_all(both)
    assert not Refused("policy/unverified", not_about).by_all(both)


def test_forged_targets_by_the_right_key_would_be_accepted() -> None:
    """Control: the same forgery with the policy key's own signature is a good set, above every floor."""
    world = PolicyWorld()
    world.publish(denying("Bad"))
    parsed = trust.verify_set(_forged(world, world.policy_key, world.publisher_key))
    floors = trust.accept(parsed, world.floors, now())
    assert floors.roles["targets"].version == world.floors.roles["targets"].version + 1


def test_a_refusal_with_another_code_or_of_one_cluster_is_not_the_one_meant() -> None:
    """Code, role and both clusters: each is asked for."""
    good = [{"cluster": name, "code": "policy/rollback", "message": "snapshot is older"} for name in ("eu-1", "us-1")]
    refused = Refused("policy/rollback", "snapshot")
    assert refused.by_all(good)
    assert not refused.by_all(good[:1])
    for change in ({"code": "policy/expired"}, {"message": "targets"}, {"cluster": "eu-1"}):
        assert not refused.by_all([good[0], good[1] | change])


# -- foreign certificates ---------------------------------------------------------------------------------------------

_UID = Answer("link/hello-refused", "the agent's uid is not the one bound to cluster eu-1")
_GOOD = Outcome(foreign="UNAVAILABLE", served="served", claimed=_UID, itself=Answer("welcome"))


def test_certificates_hold_only_for_the_reason_meant_and_with_the_control() -> None:
    """A claim refused for something else proves nothing, nor does a hub that lets nobody in."""
    assert certificate_holds(_GOOD)
    statement_key = Answer("link/hello-refused", "the agent's statement key is not the one bound to cluster eu-1")
    for wrong in (
        replace(_GOOD, claimed=statement_key),
        replace(_GOOD, claimed=Answer("welcome")),
        replace(_GOOD, claimed=Answer("authority/not-bound", "no uid")),
        replace(_GOOD, itself=_UID),
        replace(_GOOD, foreign="served"),
        replace(_GOOD, served="UNAVAILABLE"),
    ):
        assert not certificate_holds(wrong)


# -- a stolen hub -----------------------------------------------------------------------------------------------------


def test_an_attack_is_answered_by_its_own_code_about_its_own_document() -> None:
    """A Deployment refused where the Release was meant is another refusal."""
    attack = Attack(CellKey("p", "c", "e"), "sha256:d", (), "document/no-valid-signature", about="sha256:r")
    meant = {"code": "document/no-valid-signature", "object": "sha256:r"}
    assert attack.answered_by([meant])
    assert not attack.answered_by([])
    assert not attack.answered_by([meant | {"object": "sha256:d"}])
    assert not attack.answered_by([meant, meant | {"code": "cell/document-mismatch"}])
    assert replace(attack, about="").answered_by([meant | {"object": "anything"}])


# -- the record -------------------------------------------------------------------------------------------------------

_KEY = Ed25519PrivateKey.generate()
_SPKI = _KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
async def lines() -> list[bytes]:
    """Return the lines of an honest export by two agents and the hub."""
    log = AuditLog(scratch_store(ManualClock()).audit, _KEY, lambda: REALM, ManualClock())
    for writer in (AuditWriter(1), AuditWriter(2)):
        for _ in range(3):
            await log.ingest(writer.cluster, writer.uid, writer.spki, writer.batch(4))
        await log.append(AuditEvent("alice", "document.upload", "Release//r", "done"))
    parts: list[bytes] = []

    async def write(data: bytes) -> None:
        parts.append(data)

    await log.export(write)
    return b"".join(parts).splitlines(keepends=True)


def _verify(lines: list[bytes]) -> dict[str, Any]:
    return verify_lines(lines, hub_key=_SPKI).to_json()


@pytest.mark.parametrize("name", TAMPERINGS)
def test_each_tampering_is_noticed_for_what_it_is(name: str, lines: list[bytes]) -> None:
    """The verifier finds each one, and what is expected of one is not found in an honest export."""
    honest, report = _verify(lines), _verify(TAMPERINGS[name].change(lines))
    assert honest["consistent"] is True
    assert not TAMPERINGS[name].noticed(honest)
    assert report["consistent"] is False
    assert TAMPERINGS[name].noticed(report)


def test_one_byte_is_one_byte_of_a_record_that_stays_well_formed(lines: list[bytes]) -> None:
    """It is the chain that notices, not a parser."""
    changed = one_byte_changed(lines)
    pairs = [(before, after) for before, after in zip(lines, changed, strict=True) if before != after]
    assert len(pairs) == 1
    before, after = (base64.b64decode(json.loads(line)["record"]) for line in pairs[0])
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1
    assert json.loads(after).keys() == json.loads(before).keys()
    assert {problem["code"] for problem in _verify(changed)["problems"]} >= {"fork", "root"}


def test_a_tampering_that_is_found_for_something_else_does_not_count(lines: list[bytes]) -> None:
    """A file that merely cannot be read has not been caught."""
    report = _verify([*end_cut_off(lines)[:3], b"no JSON\n"])
    assert report["consistent"] is False
    assert not TAMPERINGS["one byte changed"].noticed(report)
