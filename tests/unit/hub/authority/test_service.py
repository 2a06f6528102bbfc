"""Joins and renewals: who gets a certificate, and for which name (V3, V5, V6)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cellward.errors import CellwardError
from cellward.identity import keys
from cellward.identity.x509 import PeerIdentity, make_csr, verify_peer
from hub.authority.limits import JoinLimits, Rate
from hub.authority.model import AgentCertificate, Attempt, Joined
from hub.authority.service import IdentityService
from hub.authority.tokens import JoinTokens
from hub.store.sql.store import SqlStore, open_store
from tests.fakes.authority import REALM, FakeHub
from tests.fakes.clock import ManualClock

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
UID = "6f9619ff-8b86-4011-b42d-00c04fc964ff"
OTHER_UID = "7f9619ff-8b86-4011-b42d-00c04fc964ff"


@pytest.fixture
def clock() -> ManualClock:
    """Noon."""
    return ManualClock(NOW)


@pytest.fixture
def hub(clock: ManualClock) -> FakeHub:
    """A hub that knows two clusters."""
    made = FakeHub(clock)
    made.clusters.create("eu-1")
    made.clusters.create("us-1")
    return made


def attempt(token: str, **more: object) -> Attempt:
    """A good join with fresh keys unless told otherwise."""
    base = Attempt(token, make_csr(keys.new_tls_key()), REALM, UID, keys.spki_of(keys.new_signing_key()), "192.0.2.1")
    return replace(base, **more)  # type: ignore[arg-type]


def peer_of(hub: FakeHub, certificate: AgentCertificate) -> PeerIdentity:
    """Identity the certificate proves."""
    leaf = certificate.chain_pem.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
    return verify_peer(leaf, hub.authority.agent_authorities, hub.clock.now(), hub.authority.trust_domain(), "agent")


def serving(hub: FakeHub, store: SqlStore) -> IdentityService:
    """The hub's identity service over a store of its own."""
    return IdentityService(
        authority=hub.authority,
        tokens=JoinTokens(store.tokens, hub.clock),
        store=store,
        locks=hub.clusters,
        copies=hub.identity.copies,
        clock=hub.clock,
    )


async def refused(hub: FakeHub, given: Attempt) -> str:
    """Code with which a join is refused."""
    with pytest.raises(CellwardError) as refusal:
        await hub.identity.join(given)
    return refusal.value.code


async def test_a_join_binds_uid_and_statement_key_and_is_recorded(hub: FakeHub) -> None:
    """The certificate names the token's cluster; uid and statement key are bound to it."""
    given = attempt(await hub.join_tokens.mint("eu-1"))
    joined = await hub.identity.join(given)
    bound = hub.clusters.rows["eu-1"]
    assert (joined.cluster, joined.certificate.generation) == ("eu-1", 1)
    assert (bound.uid, bound.statement_spki, bound.generation) == (UID, given.statement_spki_der, 1)
    assert bound.serial == joined.certificate.serial
    assert peer_of(hub, joined.certificate).name == "eu-1"
    assert [(entry.action, entry.decision) for entry in hub.audit.entries] == [("cluster.join", "allow")]


async def test_v6_of_many_parallel_joins_with_one_token_exactly_one_wins(hub: FakeHub, tmp_path: Path) -> None:
    """V6: fifty keys race for one token of the real store; one certificate, and the losers change nothing."""
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", hub.clock)
    identity = serving(hub, store)
    await store.clusters.create("eu-1", "test")
    token = await identity._tokens.mint("eu-1")
    attempts = [attempt(token, address=f"192.0.2.{n}") for n in range(50)]
    results = await asyncio.gather(*(identity.join(each) for each in attempts), return_exceptions=True)
    won = [each for each in results if not isinstance(each, BaseException)]
    lost = [each for each in results if isinstance(each, CellwardError)]
    assert (len(won), len(lost)) == (1, 49)
    assert {each.code for each in lost} == {"store/token-spent"}
    row = await store.clusters.get("eu-1")
    assert row is not None
    assert row.generation == 1
    joins = [each.event.action for each in await store.audit.waiting(200) if each.event.decision == "allow"]
    assert joins == ["cluster.join"]
    await store.close()


async def test_v6_a_fleet_that_joins_at_once_shares_transactions_and_nobody_elses_refusal(
    hub: FakeHub, tmp_path: Path
) -> None:
    """V6: thirty join in a few transactions, each with its record; one who is refused beside them changes nothing."""
    store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}", hub.clock)
    transactions: list[object] = []
    transact = store.transact

    async def counted(job: Any) -> Any:
        transactions.append(job)
        return await transact(job)

    store.transact = counted  # type: ignore[method-assign]
    identity = serving(hub, store)
    names = [f"c-{number}" for number in range(31)]
    for name in names:
        await store.clusters.create(name, "test")
    tokens = [await identity._tokens.mint(name) for name in names]
    uids = [f"{number:08x}-8b86-4011-b42d-00c04fc964ff" for number in range(30)]
    fleet = [attempt(token, cluster_uid=uid) for token, uid in zip(tokens[:-1], uids, strict=True)]
    joined = await asyncio.gather(*map(identity.join, fleet))
    assert [each.cluster for each in joined] == names[:-1]
    assert len(transactions) <= 3
    # Everybody asks again, and with them comes one whose uid is another's.
    thief = attempt(tokens[-1], cluster_uid=uids[7])
    again = await asyncio.gather(*map(identity.join, [*fleet, thief]), return_exceptions=True)
    assert [each.cluster for each in again if isinstance(each, Joined)] == names[:-1]
    assert [each.code for each in again if isinstance(each, CellwardError)] == ["authority/uid-taken"]
    events = [each.event for each in await store.audit.waiting(100)]
    allowed = [each.object for each in events if each.decision == "allow"]
    assert sorted(allowed) == sorted(2 * [f"Cluster//{name}" for name in names[:-1]])
    # The token of the one who was refused is not spent.
    assert (await identity.join(attempt(tokens[-1], cluster_uid=OTHER_UID))).cluster == names[-1]
    await store.close()


async def test_v6_the_same_key_may_ask_again_until_the_token_expires(hub: FakeHub, clock: ManualClock) -> None:
    """V6: a lost answer costs nothing; the generation stays; after the token's end nothing is given."""
    given = attempt(await hub.join_tokens.mint("eu-1", lifetime=timedelta(minutes=30)))
    first = await hub.identity.join(given)
    clock.advance(29 * 60)
    again = await hub.identity.join(given)
    assert (first.certificate.generation, again.certificate.generation) == (1, 1)
    clock.advance(60)
    assert await refused(hub, given) == "authority/bad-token"


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(minutes=30, seconds=1), timedelta(days=-1)])
async def test_v6_no_token_lives_longer_than_thirty_minutes(hub: FakeHub, lifetime: timedelta) -> None:
    """V6: the bound is not a default."""
    with pytest.raises(CellwardError) as refusal:
        await hub.join_tokens.mint("eu-1", lifetime=lifetime)
    assert refusal.value.code == "authority/token-lifetime"


async def test_v6_tokens_are_hashed_at_rest(hub: FakeHub) -> None:
    """V6: the store never sees the token."""
    token = await hub.join_tokens.mint("eu-1")
    assert token not in repr(hub.tokens.rows)
    assert token.removeprefix("cwj_") not in repr(hub.tokens.rows)


async def test_a_second_installation_is_refused_without_a_replacing_token(hub: FakeHub) -> None:
    """Another uid, or another statement key, under the same name needs a token that says so."""
    first = attempt(await hub.join_tokens.mint("eu-1"))
    await hub.identity.join(first)
    before = hub.clusters.rows["eu-1"]
    same_key = {"statement_spki_der": first.statement_spki_der}
    for change in ({"cluster_uid": OTHER_UID, **same_key}, {"cluster_uid": UID}, {"cluster_uid": OTHER_UID}):
        assert await refused(hub, attempt(await hub.join_tokens.mint("eu-1"), **change)) == "authority/bound-to-another"
    assert hub.clusters.rows["eu-1"] == before
    token = await hub.join_tokens.mint("eu-1", replace=True)
    joined = await hub.identity.join(attempt(token, cluster_uid=OTHER_UID))
    assert (hub.clusters.rows["eu-1"].uid, joined.certificate.generation) == (OTHER_UID, 4097)


async def test_a_refused_join_tells_nothing_of_the_hub_or_of_another_installation(hub: FakeHub) -> None:
    """Neither the hub's realm, before anything was proven, nor the uid of who holds the name."""
    await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))
    token = await hub.join_tokens.mint("eu-1")
    for given, secret in (
        (attempt(token, realm="sha256:" + "cd" * 32), REALM),
        (attempt(token, cluster_uid=OTHER_UID), UID),
    ):
        with pytest.raises(CellwardError) as refusal:
            await hub.identity.join(given)
        assert refusal.value.code in {"authority/wrong-realm", "authority/bound-to-another"}
        assert secret not in f"{refusal.value.message} {refusal.value.details}"


async def test_a_token_cannot_be_turned_into_a_replacing_one(hub: FakeHub) -> None:
    """The kind of a token is part of what is hashed."""
    token = await hub.join_tokens.mint("eu-1")
    forged = token.replace("cwj_", "cwj_replace_")
    assert await refused(hub, attempt(forged)) == "authority/bad-token"


async def test_the_same_installation_may_join_again_with_a_new_key(hub: FakeHub) -> None:
    """An agent whose certificate ran out joins with a fresh token: same uid, same statement key, next generation."""
    first = attempt(await hub.join_tokens.mint("eu-1"))
    await hub.identity.join(first)
    again = replace(first, token=await hub.join_tokens.mint("eu-1"), csr_der=make_csr(keys.new_tls_key()))
    assert (await hub.identity.join(again)).certificate.generation == 4097


async def test_a_uid_belongs_to_one_name(hub: FakeHub) -> None:
    """A cluster cannot take over another one's chains and floors by claiming its uid."""
    await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))
    assert await refused(hub, attempt(await hub.join_tokens.mint("us-1"))) == "authority/uid-taken"


async def test_a_locked_cluster_neither_joins_nor_renews(hub: FakeHub) -> None:
    """V4: a lock holds at every door."""
    given = attempt(await hub.join_tokens.mint("eu-1"))
    joined = await hub.identity.join(given)
    hub.clusters.lock("eu-1")
    assert await refused(hub, given) == "authority/locked"
    with pytest.raises(CellwardError) as refusal:
        await hub.identity.renew(peer_of(hub, joined.certificate), make_csr(keys.new_tls_key()))
    assert refusal.value.code == "authority/locked"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"realm": "sha256:" + "cd" * 32}, "authority/wrong-realm"),
        ({"realm": "x" * 4000}, "authority/bad-join"),
        ({"cluster_uid": "eu-1"}, "authority/bad-join"),
        ({"cluster_uid": UID.upper()}, "authority/bad-join"),
        ({"cluster_uid": UID + "\n"}, "authority/bad-join"),
        ({"csr_der": b"x" * 4097}, "authority/bad-join"),
        ({"statement_spki_der": b"x" * 44}, "identity/bad-key"),
        ({"statement_spki_der": keys.spki_of(keys.new_tls_key())}, "authority/bad-join"),
        ({"token": "cwj_"}, "authority/bad-token"),
        ({"token": "cwj_" + "a" * 64}, "authority/bad-token"),
        ({"token": "cwj_" + "a" * 5000}, "authority/bad-token"),
    ],
)
async def test_v16_fields_outside_their_bounds_are_refused(hub: FakeHub, change: dict[str, object], code: str) -> None:
    """V16: a stable code, nothing bound, the token unspent."""
    token = await hub.join_tokens.mint("eu-1")
    assert await refused(hub, replace(attempt(token), **change)) == code  # type: ignore[arg-type]
    assert hub.clusters.rows["eu-1"].uid == ""
    assert {spent for _, _, spent in hub.tokens.rows.values()} == {""}


async def test_nobody_joins_before_there_is_a_realm(hub: FakeHub) -> None:
    """Before the first root was published there is no identity to give."""
    hub.realm = None
    assert await refused(hub, attempt(await hub.join_tokens.mint("eu-1"))) == "authority/no-realm"


async def test_failures_are_bounded_per_address_and_in_the_record(hub: FakeHub, clock: ManualClock) -> None:
    """A stranger is stopped before anything is computed for him, cannot fill the log, and blocks nobody else."""
    limits = JoinLimits(clock, failures=Rate(3, 0.1), records=Rate(2, 0.01))
    service = IdentityService(
        authority=hub.authority,
        tokens=hub.join_tokens,
        store=hub.store,
        locks=hub.clusters,
        copies=hub.identity.copies,
        clock=clock,
        limits=limits,
    )
    codes = []
    for _ in range(6):
        with pytest.raises(CellwardError) as refusal:
            await service.join(attempt("cwj_" + "a" * 64))
        codes.append(refusal.value.code)
    assert codes == ["authority/bad-token"] * 3 + ["authority/too-many-attempts"] * 3
    assert len(hub.audit.entries) == 2
    good = attempt(await hub.join_tokens.mint("eu-1"), address="192.0.2.9")
    assert (await service.join(good)).cluster == "eu-1"
    clock.advance(10)
    with pytest.raises(CellwardError) as refusal:
        await service.join(attempt("cwj_" + "a" * 64))
    assert refusal.value.code == "authority/bad-token"
    clock.advance(100)
    with pytest.raises(CellwardError) as refusal:
        await service.join(attempt("cwj_" + "a" * 64))
    assert refusal.value.code == "authority/bad-token"
    assert hub.audit.entries[-1].details["suppressed"] == "2"


async def test_v5_a_renewal_is_for_the_name_of_the_certificate_and_the_next_generation(hub: FakeHub) -> None:
    """V3, V5: same name, new key, generation + 1; asked again with the same key, the same generation."""
    joined = await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))
    peer, csr = peer_of(hub, joined.certificate), make_csr(keys.new_tls_key())
    renewed = await hub.identity.renew(peer, csr)
    again = await hub.identity.renew(peer, csr)
    assert (renewed.generation, again.generation) == (2, 2)
    assert peer_of(hub, renewed).id == peer.id
    assert peer_of(hub, renewed).generation == 2


async def test_renewals_are_bounded(hub: FakeHub) -> None:
    """One cluster cannot keep the authority busy."""
    peer = peer_of(hub, (await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))).certificate)
    csr = make_csr(keys.new_tls_key())
    for _ in range(10):
        await hub.identity.renew(peer, csr)
    with pytest.raises(CellwardError) as refusal:
        await hub.identity.renew(peer, make_csr(keys.new_tls_key()))
    assert refusal.value.code == "authority/too-many-attempts"


async def test_v7_a_replaced_installation_renews_no_more(hub: FakeHub) -> None:
    """V7: whoever held the name before is below the floor, with the certificate it has and with any it asks for."""
    old = await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))
    token = await hub.join_tokens.mint("eu-1", replace=True)
    new = attempt(token, cluster_uid=OTHER_UID)
    joined = await hub.identity.join(new)
    assert hub.clusters.rows["eu-1"].generation_floor == joined.certificate.generation == 4097
    assert await _not_renewed(hub, old.certificate) == "authority/replaced"
    assert hub.clusters.rows["eu-1"].uid == OTHER_UID
    # A lost answer to the replacing join raises nothing, and the new installation renews.
    assert (await hub.identity.join(new)).certificate.generation == 4097
    assert hub.clusters.rows["eu-1"].generation_floor == 4097
    renewed = await hub.identity.renew(peer_of(hub, joined.certificate), make_csr(keys.new_tls_key()))
    assert renewed.generation == 4098
    assert hub.clusters.rows["eu-1"].generation_floor == 4097


async def test_v5_an_agent_outlives_a_hub_that_was_set_back(hub: FakeHub) -> None:
    """A restored store knows neither its key nor its generation; not renewed, every agent would be out in an hour."""
    first = (await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))).certificate
    backup = hub.clusters.rows["eu-1"]
    second = await hub.identity.renew(peer_of(hub, first), make_csr(keys.new_tls_key()))
    third = await hub.identity.renew(peer_of(hub, second), make_csr(keys.new_tls_key()))
    hub.clusters.rows["eu-1"] = backup
    lost = make_csr(keys.new_tls_key())
    assert (await hub.identity.renew(peer_of(hub, third), lost)).generation == 4
    finding = next(entry for entry in reversed(hub.audit.entries) if entry.decision == "finding")
    assert (finding.code, finding.object) == ("authority/restored", "Cluster//eu-1")
    # The answer to that one is lost: it is given again, and what follows is as ever.
    again = await hub.identity.renew(peer_of(hub, third), lost)
    assert again.generation == 4
    assert (await hub.identity.renew(peer_of(hub, again), make_csr(keys.new_tls_key()))).generation == 5
    assert await _not_renewed(hub, second) == "authority/stale-key"


async def test_v7_who_is_replaced_after_a_restore_is_below_the_floor_too(hub: FakeHub) -> None:
    """What the store forgot cannot make an old installation newer than the one that took its place."""
    given = attempt(await hub.join_tokens.mint("eu-1"))
    old = (await hub.identity.join(given)).certificate
    backup = hub.clusters.rows["eu-1"]
    for _ in range(5):
        old = await hub.identity.renew(peer_of(hub, old), make_csr(keys.new_tls_key()))
    hub.clusters.rows["eu-1"] = backup
    await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1", replace=True), cluster_uid=OTHER_UID))
    assert await _not_renewed(hub, old) == "authority/replaced"
    assert hub.clusters.rows["eu-1"].uid == OTHER_UID


async def test_the_first_installation_has_no_floor(hub: FakeHub) -> None:
    """Joining, asking again and renewing leave nothing to be compared at every call."""
    given = attempt(await hub.join_tokens.mint("eu-1"))
    joined = await hub.identity.join(given)
    await hub.identity.join(given)
    await hub.identity.renew(peer_of(hub, joined.certificate), make_csr(keys.new_tls_key()))
    assert hub.clusters.rows["eu-1"].generation_floor == 0


async def test_v7_until_the_new_certificate_is_used_the_old_one_is_answered_again(hub: FakeHub) -> None:
    """V7: any number of lost answers, each for the same new key; the generation does not run away, nobody is locked."""
    first = (await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))).certificate
    csr = make_csr(keys.new_tls_key())
    for _ in range(3):
        assert (await hub.identity.renew(peer_of(hub, first), csr)).generation == 2
    second = await hub.identity.renew(peer_of(hub, first), csr)
    next_csr = make_csr(keys.new_tls_key())
    third = await hub.identity.renew(peer_of(hub, second), next_csr)
    assert third.generation == 3
    # The lost answer to that one: asked for again with the second.
    assert (await hub.identity.renew(peer_of(hub, second), next_csr)).generation == 3
    assert hub.clusters.locks == []


async def test_v7_one_agent_that_asks_twice_at_once_is_overtaken_and_not_locked(
    hub: FakeHub, clock: ManualClock
) -> None:
    """V7: right after the renewal the same new key is that of the same holder; later it is a copy's."""
    first = (await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))).certificate
    csr = make_csr(keys.new_tls_key())
    second = await hub.identity.renew(peer_of(hub, first), csr)
    await hub.clusters.used("eu-1", peer_of(hub, second).spki_sha256)
    with pytest.raises(CellwardError) as refusal:
        await hub.identity.renew(peer_of(hub, first), csr)
    assert (refusal.value.code, hub.clusters.locks) == ("authority/overtaken", [])
    clock.advance(61)
    with pytest.raises(CellwardError) as refusal:
        await hub.identity.renew(peer_of(hub, first), csr)
    assert refusal.value.code == "authority/stale-key"
    assert len(hub.clusters.locks) == 1


async def test_v7_two_new_keys_that_follow_one_lock_both(hub: FakeHub) -> None:
    """V7: an answer that was lost is asked for again with the same key; another key is another holder."""
    first = (await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))).certificate
    await hub.identity.renew(peer_of(hub, first), make_csr(keys.new_tls_key()))
    assert await _not_renewed(hub, first) == "authority/stale-key"
    assert [str(lock) for lock in hub.clusters.locks] == [f"agent/{UID}"]
    assert await _not_renewed(hub, first) == "authority/locked"


@pytest.mark.parametrize("used", [True, False], ids=["said hello", "renewed"])
async def test_v7_a_key_that_a_used_one_has_followed_is_not_renewed_and_is_a_finding(hub: FakeHub, used: bool) -> None:
    """V7: a copy of the agent that renews later than the original is found, and changes nothing."""
    first = (await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))).certificate
    second = await hub.identity.renew(peer_of(hub, first), make_csr(keys.new_tls_key()))
    if used:
        await hub.clusters.used("eu-1", peer_of(hub, second).spki_sha256)
    else:
        await hub.identity.renew(peer_of(hub, second), make_csr(keys.new_tls_key()))
    before = hub.clusters.rows["eu-1"]
    assert await _not_renewed(hub, first) == "authority/stale-key"
    assert hub.clusters.rows["eu-1"] == before
    finding = hub.audit.entries[-1]
    assert (finding.action, finding.decision, finding.object) == ("identity.copy", "finding", "Cluster//eu-1")
    # Neither copy goes on: nobody can tell which of them is the original.
    assert await _not_renewed(hub, second) == "authority/locked"


async def _not_renewed(hub: FakeHub, certificate: AgentCertificate) -> str:
    """Code with which a renewal is refused."""
    with pytest.raises(CellwardError) as refusal:
        await hub.identity.renew(peer_of(hub, certificate), make_csr(keys.new_tls_key()))
    return refusal.value.code


async def test_v7_a_renewal_under_way_does_not_undo_a_replacement_by_another_process(
    hub: FakeHub, tmp_path: Path
) -> None:
    """V7: whichever comes first, the new installation keeps the name and the old certificate is out."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"
    stores = [await open_store(url, hub.clock) for _ in range(2)]
    await stores[0].clusters.create("eu-1", "test")
    hub.join_tokens._tokens = stores[0].tokens
    ours, theirs = (serving(hub, store) for store in stores)
    hub.identity = ours
    old = (await ours.join(attempt(await hub.join_tokens.mint("eu-1")))).certificate
    token = await hub.join_tokens.mint("eu-1", replace=True)
    await asyncio.gather(
        ours.renew(peer_of(hub, old), make_csr(keys.new_tls_key())),
        theirs.join(attempt(token, cluster_uid=OTHER_UID)),
        return_exceptions=True,
    )
    row = await stores[0].clusters.get("eu-1")
    assert row is not None
    assert row.uid == OTHER_UID
    assert await _not_renewed(hub, old) == "authority/replaced"
    for store in stores:
        await store.close()


@pytest.mark.parametrize("kind", ["agent", "cluster", "serial", "key"])
async def test_v4_each_kind_of_lock_holds_at_renewal(hub: FakeHub, kind: str) -> None:
    """V4: by uid, name, serial number or key; each holds whom it names and nobody else."""
    joined = (await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))).certificate
    other = await hub.identity.join(attempt(await hub.join_tokens.mint("us-1"), cluster_uid=OTHER_UID))
    peer = peer_of(hub, joined)
    subject = {"agent": UID, "cluster": "eu-1", "serial": joined.serial, "key": peer.spki_sha256}[kind]
    hub.clusters.lock_by(f"{kind}/{subject}")
    assert await _not_renewed(hub, joined) == "authority/locked"
    await hub.identity.renew(peer_of(hub, other.certificate), make_csr(keys.new_tls_key()))


async def test_v4_a_locked_key_is_not_certified_and_a_locked_certificate_does_not_keep_its_agent_out(
    hub: FakeHub,
) -> None:
    """V4: a key that was locked gets no certificate by any token; a token of an admin with a new key does."""
    key = keys.new_tls_key()
    joined = await hub.identity.join(attempt(token := await hub.join_tokens.mint("eu-1"), csr_der=make_csr(key)))
    statement = hub.clusters.rows["eu-1"].statement_spki
    hub.clusters.lock_by(f"key/{keys.spki_digest(keys.spki_of(key))}")
    hub.clusters.lock_by(f"serial/{joined.certificate.serial}")
    again = attempt(token, csr_der=make_csr(key), statement_spki_der=statement)
    assert await refused(hub, again) == "authority/locked"
    fresh = attempt(await hub.join_tokens.mint("eu-1"), statement_spki_der=statement)
    back = await hub.identity.join(fresh)
    # The certificate that was locked is below the floor besides.
    assert hub.clusters.rows["eu-1"].generation_floor == back.certificate.generation > 1


async def test_v4_a_locked_installation_does_not_come_back_under_another_name(hub: FakeHub) -> None:
    """V4: the lock of a uid holds at every name; a new installation may take the old name."""
    await hub.identity.join(attempt(await hub.join_tokens.mint("eu-1")))
    hub.clusters.lock_by(f"agent/{UID}")
    assert await refused(hub, attempt(await hub.join_tokens.mint("us-1"))) == "authority/locked"
    token = await hub.join_tokens.mint("eu-1", replace=True)
    await hub.identity.join(attempt(token, cluster_uid=OTHER_UID))
