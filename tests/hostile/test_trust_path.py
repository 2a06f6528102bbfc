"""What a stolen hub, an author with little scope, or a user of a cell's namespace tries at the agent."""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from securesystemslib.signer import SSlibKey
from tuf.api.metadata import Role

from agent.audit.interfaces import RecorderPort
from agent.cells.compose import CONCURRENCY
from agent.kube.errors import KUBE_UNAVAILABLE
from agent.kube.interfaces import ObjectRef, WatchEvent, WatchType
from agent.objects.fence import KINDS as GUARD_KINDS
from agent.objects.fence import Fence
from agent.spool.errors import FULL
from cellward.documents import canonical
from cellward.documents.dsse import Ed25519Signer, dump_envelope, parse_envelope, sign_document
from cellward.documents.keyring import Keyring
from cellward.errors import CellwardError
from cellward.policy.bindings import dump_bindings
from cellward.policy.model import BindingSet, Decision, DecisionInput, Staleness, Violation
from cellward.policy.trust import check_keys
from cellward.runtime.health import HealthRegistry
from cellward.wire.codec import DesiredItem, item_from_wire, items_digest
from cellward.wire.v1 import link_pb2
from tests.fakes.cell_world import REALM, World, cell_yaml, service_yaml
from tests.fakes.kube import FakeKube

CELL = "shop1"
NAMESPACE = f"shop--{CELL}--dev"
WEB = ObjectRef("apps/v1", "Deployment", NAMESPACE, "web")
SERVICE = ObjectRef("v1", "Service", NAMESPACE, "web")
INSIDE = ObjectRef("networking.k8s.io/v1", "NetworkPolicy", NAMESPACE, "allow-within-cell")
NOTHING = "sha256:" + "1" * 64


async def _deployed(world: World, kube: FakeKube) -> str:
    digest = world.deployment(CELL, world.release(cell_yaml(CELL)))
    receipt = await world.submit(world.item(CELL, digest))
    assert receipt.accepted, receipt.refusals
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.phase(CELL, "ready")
    return digest


async def _failing(
    world: World, kube: FakeKube, components: str, seconds: int, before: set[ObjectRef] | None = None
) -> str:
    """Deploy something healthy, then what never gets its pods and names the first release as fallback.

    ``before`` takes what there was after the first.
    """
    good = world.release(cell_yaml(CELL))
    assert (await world.submit(world.item(CELL, world.deployment(CELL, good)))).accepted
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.phase(CELL, "ready")
    if before is not None:
        before |= set(kube._objects)
    bad = world.release(cell_yaml(CELL, "1.1.0", components))
    digest = world.deployment(CELL, bad, fallback=good, rollout={"deadlineSeconds": seconds})
    assert (await world.submit(world.item(CELL, digest))).accepted
    return digest


async def _is_there(world: World, kube: FakeKube, ref: ObjectRef) -> None:
    await world.until(lambda: ref in kube._objects, seconds=15)


# -- the hub: making the agent stop ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("project", "cell", "environment"),
    [("a--b", "c", "dev"), ("a" * 21, "c", "dev"), ("a", "c" * 25, "dev"), ("a", "c", "d" * 13), ("a", "", "dev")],
)
def test_v16_names_that_make_no_namespace_do_not_come_in(project: str, cell: str, environment: str) -> None:
    """They would be durable before anybody looks at them."""
    message = link_pb2.DesiredItem(
        revision=1, project=project, cell=cell, environment=environment, deployment_digest=NOTHING
    )
    with pytest.raises(CellwardError) as caught:
        item_from_wire(message)
    assert caught.value.code == "wire/bad-message"


def test_v13_revision_that_no_record_can_carry_does_not_come_in() -> None:
    """A quarantine with it would be done and its record refused."""
    message = link_pb2.DesiredItem(revision=2**53, project="a", cell="c", environment="dev", deployment_digest=NOTHING)
    with pytest.raises(CellwardError) as caught:
        item_from_wire(message)
    assert caught.value.code == "wire/bad-message"


async def test_v16_item_in_the_state_that_cannot_be_used_does_not_stop_the_next_start(
    world: World, kube: FakeKube
) -> None:
    """Once it was a crash loop for good: the engine ended at every start."""
    await _deployed(world, kube)
    await world.state.items.put(DesiredItem(99, "a--b", "c", "dev", NOTHING))
    await world._stop()
    await world._start()
    await kube.delete(SERVICE)
    await _is_there(world, kube, SERVICE)


def test_v16_digest_of_many_items_has_no_bound() -> None:
    """Hello carries it: were it bounded like a document, a hub could end the link for good."""
    evidence = tuple(f"sha256:{number:064x}" for number in range(64))
    few = [DesiredItem(1, "shop", "a", "dev", NOTHING, evidence), DesiredItem(2, "shop", "b", "dev", NOTHING)]
    rows = [["shop", one.cell, "dev", NOTHING, sorted(one.evidence), "run"] for one in few]
    assert items_digest(few) == canonical.digest(canonical.encode({"items": rows, "schema": "cellward.items/v1"}))
    assert items_digest(DesiredItem(1, "shop", f"c{number}", "dev", NOTHING, evidence) for number in range(400))


@pytest.mark.parametrize("others", [0, 20])
async def test_v1_hub_that_stalls_content_does_not_stop_drift_repair(world: World, kube: FakeKube, others: int) -> None:
    """Neither of the cell whose documents it withholds, nor of others by using up their turns."""
    await _deployed(world, kube)

    asked: list[str] = []

    async def stall(digest: str, limit: int) -> bytes | None:
        del limit
        asked.append(digest)
        await asyncio.sleep(600)
        return None

    world.hub.fetch_digest = stall  # type: ignore[method-assign]
    cells = [f"ghost{number}" for number in range(others)] or [CELL]
    for cell in cells:
        await world.engine.submit(DesiredItem(100, "shop", cell, "dev", NOTHING))
    await world.until(lambda: len(asked) == min(len(cells), CONCURRENCY))
    await kube.delete(SERVICE)
    await _is_there(world, kube, SERVICE)


async def test_v13_narrowing_does_not_wait_for_documents_of_the_item_before(world: World, kube: FakeKube) -> None:
    """A newer item takes the place of one that is still being fetched."""
    digest = await _deployed(world, kube)

    asked = asyncio.Event()

    async def stall(digest: str, limit: int) -> bytes | None:
        del digest, limit
        asked.set()
        await asyncio.sleep(600)
        return None

    world.hub.fetch_digest = stall  # type: ignore[method-assign]
    await world.engine.submit(world.item(CELL, NOTHING))
    await asked.wait()
    await world.engine.submit(world.item(CELL, digest, hub_state="quarantine"))
    await world.phase(CELL, "held")
    assert (await kube.get(INSIDE))["spec"]["ingress"] == []


# -- the hub: narrowing that is undone, half done, or leads back -------------------------------------------------------


async def test_quarantine_is_not_opened_by_the_fallback_nor_leads_to_it(world: World, kube: FakeKube) -> None:
    """Cut off, nothing becomes healthy; that must neither reopen isolation nor bring older content (§2)."""
    digest = await _failing(world, kube, service_yaml(replicas=1), 4)
    await world.engine.submit(world.item(CELL, digest, hub_state="quarantine"))
    await world.phase(CELL, "held")
    await asyncio.sleep(4.5)
    assert (await kube.get(INSIDE))["spec"]["ingress"] == []
    assert world.report(CELL).version == "1.1.0"
    await world.engine.submit(world.item(CELL, digest))
    await world.until(lambda: kube._objects[INSIDE]["spec"]["ingress"] != [])
    assert world.report(CELL).version == "1.1.0"
    await world.until(lambda: world.report(CELL).version == "1.0.0")


@pytest.mark.parametrize("lifting", [False, True])
async def test_narrowing_interrupted_between_two_objects_is_finished(
    world: World, kube: FakeKube, lifting: bool
) -> None:
    """A moment without API server must not leave half a cell open, or half of it closed, and call it done."""
    digest = await _deployed(world, kube)
    failed: list[ObjectRef] = []

    def once(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "apply" and ref == INSIDE and not failed:
            failed.append(ref)
            raise KUBE_UNAVAILABLE("a moment without API server")

    if not lifting:
        kube.on_request = once
    await world.engine.submit(world.item(CELL, digest, hub_state="quarantine"))
    await world.until(lambda: kube._objects[INSIDE]["spec"]["ingress"] == [])
    await world.phase(CELL, "held")
    if lifting:
        kube.on_request = once
        await world.engine.submit(world.item(CELL, digest))
        await world.until(lambda: kube._objects[INSIDE]["spec"]["ingress"] != [])
    assert failed


async def test_v13_quarantine_on_a_full_disk_is_done_and_counted(
    world: World, kube: FakeKube, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is it blocked, nor is its record lost without a count."""
    digest = await _deployed(world, kube)

    async def full(*_: object, **__: object) -> Any:
        raise FULL("the disk is full")

    monkeypatch.setattr(world.state.inventory, "put", full)
    monkeypatch.setattr(world.state.audit, "append", full)
    await world.engine.submit(world.item(CELL, digest, hub_state="quarantine"))
    await world.phase(CELL, "held")
    assert (await kube.get(INSIDE))["spec"]["ingress"] == []
    assert world.recorder.lost == 1


# -- the way back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["dry-run", "apply"])
async def test_v11_fallback_survives_an_interruption(world: World, kube: FakeKube, verb: str) -> None:
    """A moment without API server must not leave the failed release in place, called accepted."""
    await _failing(world, kube, service_yaml(replicas=1), 1)
    failed: list[ObjectRef] = []

    def once(seen: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if seen == verb and ref == WEB and not failed:
            failed.append(ref)
            raise KUBE_UNAVAILABLE("a moment without API server")

    kube.on_request = once
    await world.until(lambda: world.report(CELL).version == "1.0.0" and world.report(CELL).phase == "degraded")
    assert failed
    await world.until(lambda: not world.receipts[-1].accepted)
    assert (await kube.get(WEB))["spec"]["replicas"] == 0


async def test_v14_brake_does_not_stand_in_the_way_of_the_fallback(world: World, kube: FakeKube) -> None:
    """Eighteen objects go, unconfirmed: what the failed Deployment itself brought, nothing that stood before."""
    before: set[ObjectRef] = set()
    parts = "".join(service_yaml(f"p{number}", replicas=1) for number in range(6))
    await _failing(world, kube, service_yaml(replicas=1) + parts, 1, before)
    assert WEB._replace(name="p0") in kube._objects
    deletes = len([one for one in kube.requests if one[0] == "delete"])
    await world.until(lambda: world.report(CELL).version == "1.0.0" and world.report(CELL).phase == "degraded")
    assert set(kube._objects) == before
    assert len([one for one in kube.requests if one[0] == "delete"]) == deletes + 18


@pytest.mark.parametrize("kind", ["NetworkPolicy", "Deployment"])
async def test_v11_interrupted_upgrade_is_written_in_the_end(world: World, kube: FakeKube, kind: str) -> None:
    """What was not written before the interruption must not pass for released because it looks as it did before."""
    wide = service_yaml() + "  endpoints: {api: {component: web, port: http, visibility: organization}}\n"
    narrow = service_yaml(image="registry.example/web:2")
    narrow += "  endpoints: {api: {component: web, port: http, visibility: project}}\n"
    assert (await world.deploy(cell_yaml(CELL, "1.0.0", wide), CELL)).accepted
    kube.set_status(WEB, {"observedGeneration": 99})
    await world.phase(CELL, "ready")
    edge = INSIDE._replace(name="endpoint.api")
    target = edge if kind == "NetworkPolicy" else WEB
    failed: list[ObjectRef] = []

    def once(verb: str, ref: ObjectRef, user: str | None) -> None:
        del user
        if verb == "apply" and ref == target and not failed:
            failed.append(ref)
            raise KUBE_UNAVAILABLE("a moment without API server")

    kube.on_request = once
    receipt = await world.deploy(cell_yaml(CELL, "1.1.0", narrow), CELL)
    assert receipt.accepted
    assert failed
    peer = (await kube.get(edge))["spec"]["ingress"][0]["from"][0]["namespaceSelector"]
    assert peer["matchLabels"].get("cellward.dev/project") == "shop"
    assert (await kube.get(WEB))["spec"]["template"]["spec"]["containers"][0]["image"] == "registry.example/web:2"


# -- documents ---------------------------------------------------------------------------------------------------------


async def test_signature_that_was_left_out_at_first_is_taken_later(world: World, kube: FakeKube) -> None:
    """The digest says nothing about signatures: what came first must not be kept for good."""
    second = Ed25519Signer.generate()
    current = world.policy.current
    assert current is not None
    first = current.keyring.entries[0]
    entry = dataclasses.replace(first, keyid=second.keyid, spki_der=second.public_spki_der, owner="bob")
    world.policy.current = dataclasses.replace(current, keyring=Keyring(REALM, 1, (first, entry)))

    async def two(request: DecisionInput) -> Decision:
        owners = {signer["owner"] for signer in request.signers if signer["signed"] == "deployment"}
        found = () if owners == {"ada", "bob"} else (Violation("x/two-owners", "two owners are needed"),)
        return Decision(not found, found, (), {}, "1")

    world.policy.evaluator.decide = two  # type: ignore[method-assign]
    digest = world.deployment(CELL, world.release(cell_yaml(CELL)))
    envelope = parse_envelope(world.hub.documents[digest])
    assert not (await world.submit(world.item(CELL, digest))).accepted
    both = sign_document(envelope.payload, envelope.payload_type, (world.author, second))
    world.hub.documents[digest] = dump_envelope(both)
    receipt = await world.submit(world.item(CELL, digest))
    assert receipt.accepted, receipt.refusals
    assert (await kube.get(WEB))["metadata"]["name"] == "web"


async def test_refused_documents_take_no_room(world: World) -> None:
    """Signing is cheap: an author whose releases are all refused must not fill the disk of every project."""

    async def no(request: DecisionInput) -> Decision:
        del request
        found = (Violation("x/no", "no"),)
        return Decision(not found, found, (), {}, "1")

    world.policy.evaluator.decide = no  # type: ignore[method-assign]
    release = world.release(cell_yaml(CELL))
    digest = world.deployment(CELL, release)
    assert not (await world.submit(world.item(CELL, digest))).accepted
    assert [await world.state.blobs.get(one) for one in (release, digest)] == [None, None]


async def test_documents_nobody_needs_go_at_the_next_start(world: World, kube: FakeKube) -> None:
    """What runs keeps its own."""
    old = await _deployed(world, kube)
    new = world.deployment(CELL, world.release(cell_yaml(CELL, "1.1.0")))
    assert (await world.submit(world.item(CELL, new))).accepted
    await world._stop()
    await world._start()
    assert await world.state.blobs.get(old) is None
    assert await world.state.blobs.get(new) is not None


async def test_v8_key_revoked_while_the_release_is_on_its_way_does_not_come_through(world: World) -> None:
    """Between decision and apply lie namespace, probe and dry run; the policy of that moment counts."""
    probe = world.prober.probe

    async def revoke(namespace: str) -> Any:
        current = world.policy.current
        assert current is not None
        entry = dataclasses.replace(current.keyring.entries[0], state="compromised")
        world.policy.current = dataclasses.replace(current, keyring=Keyring(REALM, 2, (entry,)), keyring_version=2)
        return await probe(namespace)

    world.prober.probe = revoke  # type: ignore[method-assign]
    receipt = await world.deploy(cell_yaml(CELL), CELL)
    assert receipt.refusals[0].code == "document/no-valid-signature"
    assert await world.state.floors.get("shop", CELL, "dev") is None


@pytest.mark.parametrize("verdict", ["keep", "refuse-new"])
async def test_v8_tombstone_is_not_carried_out_on_stale_policy(world: World, kube: FakeKube, verdict: Any) -> None:
    """A hub that withholds a revocation must not get data deleted with the revoked key."""
    await _deployed(world, kube)
    world.policy.stale = Staleness(100, 10, verdict)
    await world.engine.submit(world.item(CELL, world.tombstone(CELL, delete_data=True)))
    await world.until(lambda: [one.code for one in world.report(CELL).refusals] == ["apply/policy-stale"])
    assert await kube.get(WEB)
    world.policy.stale = Staleness(0, 10, "fresh")
    world.engine.reconsider()
    await world.phase(CELL, "removed")


# -- users of a cell's namespace ---------------------------------------------------------------------------------------


async def test_object_that_a_finalizer_keeps_is_still_repaired(world: World, kube: FakeKube) -> None:
    """Deleted and held by a finalizer it works on for ever, so it is kept as released for as long."""
    await _deployed(world, kube)
    before = kube._objects[SERVICE]
    after = copy.deepcopy(before)
    after["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["example.org/keep"]}
    after["spec"]["selector"] = {"somebody": "else"}
    kube._store(SERVICE, before, after)
    await world.until(lambda: kube._objects[SERVICE]["spec"]["selector"] == before["spec"]["selector"], seconds=15)


# -- what is signed, read wrongly --------------------------------------------------------------------------------------


def test_threshold_of_an_unknown_kind_is_refused() -> None:
    """``deployments: 2`` would silently mean one signature."""
    with pytest.raises(CellwardError) as caught:
        dump_bindings(BindingSet(REALM, (), thresholds={"deployments": 2}))
    assert caught.value.code == "policy/bindings-too-new"


def test_one_ed25519_key_in_two_letter_cases_is_one_key() -> None:
    """Otherwise one holder meets a threshold of two; under its own id it has one form."""
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    usual = SSlibKey.from_crypto(public).keyval["public"]
    own = hashlib.sha256(
        public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()
    _refused_as_keys("ed25519", "ed25519", own, usual, usual.upper())


def test_one_p256_key_compressed_and_not_is_one_key() -> None:
    """As above."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    usual = SSlibKey.from_crypto(key).keyval["public"]
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    der = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    short = f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"
    own = hashlib.sha256(
        key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()
    _refused_as_keys("ecdsa", "ecdsa-sha2-nistp256", own, usual, short)


def _refused_as_keys(keytype: str, scheme: str, own: str, usual: str, other: str) -> None:
    """Only the usual form under the id that is the key's own is a key of a role."""

    def check(**keys: str) -> None:
        found = {keyid: SSlibKey(keyid, keytype, scheme, {"public": text}) for keyid, text in keys.items()}
        check_keys(found, {"root": Role([*keys], 1)})

    check(**{own: usual})
    for keys in ({own: usual, "1" * 64: other}, {own: other}, {"1" * 64: usual}, {own.upper(): usual}):
        with pytest.raises(CellwardError) as caught:
            check(**keys)
        assert caught.value.code == "policy/bad-root"


class _Nobody:
    async def record_or_count(self, *_: object, **__: object) -> int | None:
        return None


async def test_fence_without_the_charts_files_is_not_intact() -> None:
    """With nothing to compare with, everything would look as it should."""
    recorder: RecorderPort = _Nobody()  # type: ignore[assignment]
    fence = Fence((), recorder, HealthRegistry())
    for kind in GUARD_KINDS:
        await fence.handle(kind, WatchEvent(WatchType.SYNCED, {}))
    assert not fence.intact
