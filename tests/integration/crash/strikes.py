"""Kill a hub at every statement of every mutation, and look at what is there afterwards (V13).

Run as a program of its own: each try is a fork of a process that has no threads and no loop, ended by SIGKILL just
before a statement or a commit reaches the database, or after the last one and before the caller is answered. What is
there then is what was there before, without a record, or all that the mutation does, with exactly one.

    python -m tests.integration.crash.strikes sqlite:///DIRECTORY/hub.db 1

The first argument is the database, empty; the second takes every n-th statement. The last line is a JSON object.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import structlog
from aiohttp.test_utils import TestClient, TestServer
from sqlalchemy import event, select

from cellward.audit.record import record_digest
from cellward.identity import keys
from cellward.identity.x509 import make_csr, verify_peer
from cellward.policy.publisher import Publication
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from cellward.wire.v1 import link_pb2, types_pb2
from hub.api.app import make_api_app
from hub.audit.service import AuditLog
from hub.authority.authority import Authority
from hub.authority.copies import Copies
from hub.authority.model import AgentCertificate, Attempt
from hub.authority.service import IdentityService
from hub.authority.tokens import JoinTokens
from hub.clusters.locks import OwnLocks
from hub.store.links import PresenceRow, boot_digest, replica_lease
from hub.store.sql.store import SqlStore, open_store
from hub.store.sql.tables import metadata
from tests.fakes.live_api import hub_keys, make_services
from tests.fakes.policy import PolicyWorld, starter_archive
from tests.fakes.signed import Author, Keys
from tests.integration.crash.databases import database_of

#: Columns whose values no two runs share.
_CHANCE = {
    "token_hash", "created_at", "expires_at", "received_at", "changed_at", "removed_at", "bound_at", "spent_at",
    "last_seen", "at", "number", "transaction", "origin", "serial", "version", "data",
}  # fmt: skip
#: What tells others or waits for its place is not what a mutation does; records are compared by themselves.
_APART = {"changes", "revisions", "audit_events", "audit_records", "audit_chains", "audit_tiles", "audit_log", "meta"}


@dataclass
class World:
    """What every try begins with: keys that never change, and a database as the stage left it."""

    made: Any = field(default_factory=hub_keys)
    keyring: Keys = field(default_factory=Keys)
    policy: PolicyWorld = field(default_factory=PolicyWorld)
    author: Author = field(default_factory=lambda: Author(""))
    envelopes: dict[str, list[str]] = field(default_factory=dict)
    #: What two agents ask with: a first certificate for us-1, and the next one of eu-1, which has joined.
    attempts: list[Attempt] = field(default_factory=list)
    held: AgentCertificate | None = None
    publication: Publication | None = None
    next_csr: bytes = field(default_factory=lambda: make_csr(keys.new_tls_key()))

    def __post_init__(self) -> None:
        self.made = replace(self.made, timestamp=self.policy.hub_key._key)


@dataclass
class Hub:
    """A hub in this process: the API over the store."""

    store: SqlStore
    services: Any
    client: TestClient[Any, Any]
    identity: IdentityService

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Ask as an admin."""
        headers = {"Authorization": "Bearer admin-token"}
        response = await self.client.request(method, "/v1" + path, json=body, headers=headers)
        return response.status, await response.json()


Job = Callable[[World, Hub], Awaitable[None]]


async def run(url: str, world: World, job: Job) -> None:
    """Run a job on a hub that is opened for it."""
    store = await open_store(url)
    services = make_services(store, world.made, HealthRegistry(SystemClock()), world.keyring)
    async with TestClient(TestServer(make_api_app(services))) as client:
        await job(world, Hub(store, services, client, _identity(world, store)))
    await store.close()


def _identity(world: World, store: SqlStore) -> IdentityService:
    clock = SystemClock()
    return IdentityService(
        authority=Authority(world.made, clock, lambda: world.policy.realm),
        tokens=JoinTokens(store.tokens, clock),
        store=store,
        locks=OwnLocks(store.locks),
        copies=Copies(store, clock),
        clock=clock,
    )


async def must(hub: Hub, method: str, path: str, body: object = None) -> Any:
    """Ask, and fail unless it was done."""
    status, answer = await hub.ask(method, path, body)
    if status >= 300:
        raise AssertionError(f"{method} {path}: {answer}")
    return answer


async def set_up(world: World, hub: Hub) -> None:
    """Make the installation that every mutation finds."""
    text = _text
    await must(hub, "POST", "/trust/root", {"root": text(world.policy.root)})
    world.author.realm = world.policy.realm
    world.keyring.enrol(world.author)
    await hub.services.policy.publish(world.policy.publish(starter_archive()))
    world.publication = world.policy.publish(starter_archive())
    author = world.author
    release = author.release()
    world.envelopes = {
        "first": [text(release), text(author.deployment(release, 1))],
        "second": [text(author.deployment(release, 2))],
        "end": [text(author.tombstone(3))],
        "other": [text(author.release(cell="web"))],
    }
    for name in ("eu-1", "eu-2"):
        await must(hub, "POST", "/clusters", {"name": name})
        await must(
            hub, "POST", f"/clusters/{name}/join-tokens", {"facts": {"environments": ["dev"], "production": False}}
        )
        facts = types_pb2.ClusterFacts(uid=f"uid-{name}", environments=["dev"], projects=["*"])
        await hub.services.clusters.hello(name, link_pb2.Hello(facts=facts))
    for name, uid in (("eu-1", _UIDS[0]), ("us-1", _UIDS[1])):
        if name == "us-1":
            await must(hub, "POST", "/clusters", {"name": name})
        token = (await must(hub, "POST", f"/clusters/{name}/join-tokens", {}))["token"]
        statement = keys.spki_of(keys.new_signing_key())
        csr = make_csr(keys.new_tls_key())
        world.attempts.append(Attempt(token, csr, world.policy.realm, uid, statement, "192.0.2.1"))
    world.held = (await hub.identity.join(world.attempts[0])).certificate
    await must(hub, "POST", "/documents", {"envelopes": world.envelopes["first"]})
    await must(hub, "POST", "/tokens", {"name": "ci", "role": "deployer", "lifetimeSeconds": 3600})
    await must(hub, "POST", "/locks", {"kind": "cluster", "subject": "eu-2", "reason": "why"})
    await hub.store.leases.take(replica_lease("this"), "this", timedelta(days=1))
    await hub.store.links.opened([PresenceRow("eu-1", "this", "s-1", boot_digest("b-1"), SystemClock().now())])


def _ask(method: str, path: str, body: object = None) -> Job:
    async def job(_: World, hub: Hub) -> None:
        await must(hub, method, path, body)

    return job


def _upload(name: str) -> Job:
    async def job(world: World, hub: Hub) -> None:
        await must(hub, "POST", "/documents", {"envelopes": world.envelopes[name]})

    return job


async def _join(world: World, hub: Hub) -> None:
    await hub.identity.join(world.attempts[1])


async def _renew(world: World, hub: Hub) -> None:
    assert world.held is not None
    end = b"-----END CERTIFICATE-----\n"
    leaf = world.held.chain_pem.split(end)[0] + end
    authority = hub.identity.authority
    peer = verify_peer(leaf, authority.agent_authorities, SystemClock().now(), authority.trust_domain(), "agent")
    await hub.identity.renew(peer, world.next_csr)


async def _publish(world: World, hub: Hub) -> None:
    assert world.publication is not None
    made = world.publication
    files = [{"role": one.role, "version": one.version, "data": _text(one.data)} for one in made.metadata]
    targets = [{"digest": name, "data": _text(data)} for name, data in made.targets.items()]
    await must(hub, "POST", "/policy/publications", {"metadata": files, "targets": targets})


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


_UIDS = ("6f9619ff-8b86-4011-b42d-00c04fc964ff", "7f9619ff-8b86-4011-b42d-00c04fc964ff")
#: Every mutation, with the action of its record.
MUTATIONS: dict[str, tuple[str, Job]] = {
    "token": ("api-token.create", _ask("POST", "/tokens", {"name": "more", "role": "viewer", "lifetimeSeconds": 60})),
    "token-revoked": ("api-token.revoke", _ask("DELETE", "/tokens/ci")),
    "cluster": ("cluster.create", _ask("POST", "/clusters", {"name": "ap-1"})),
    "join-token": ("token.mint", _ask("POST", "/clusters/eu-1/join-tokens", {})),
    "invite": (
        "token.mint",
        _ask("POST", "/clusters/eu-1/join-tokens", {"facts": {"environments": ["dev", "prod"], "production": False}}),
    ),
    "rekey": ("cluster.rekey", _ask("POST", "/clusters/eu-1/retired-certificates", {})),
    "cluster-removed": ("cluster.remove", _ask("DELETE", "/clusters/eu-2")),
    "join": ("cluster.join", _join),
    "renewal": ("certificate.renew", _renew),
    "publication": ("policy.publish", _publish),
    "lock": ("lock.set", _ask("POST", "/locks", {"kind": "cluster", "subject": "eu-1", "reason": "why"})),
    "lock-lifted": ("lock.lift", _ask("DELETE", "/locks/cluster/eu-2")),
    "command": ("cluster.command", _ask("POST", "/clusters/eu-1/commands", {"kind": "resync", "id": "again-01"})),
    "upload": ("document.upload", _upload("second")),
    "upload-end": ("document.upload", _upload("end")),
    "upload-release": ("document.upload", _upload("other")),
    "hold": (
        "cell.narrow",
        _ask("POST", "/cells/shop/cart/narrowing", {"cluster": "eu-1", "environment": "dev", "state": "hold"}),
    ),
}


def _count(store: SqlStore, limit: int) -> list[int]:
    """Count statements and commits from now on, and end this process at the ``limit``-th."""
    seen = [0]

    def strike(*_: object) -> None:
        seen[0] += 1
        if seen[0] == limit:
            os.kill(os.getpid(), signal.SIGKILL)

    for engine in (store._db._writer, store._db._reader):
        event.listen(engine.sync_engine, "before_cursor_execute", strike)
        event.listen(engine.sync_engine, "commit", strike)
    return seen


def attempt(url: str, world: World, job: Job, limit: int) -> int:
    """Run a job in a fork that ends at the ``limit``-th statement; return how many it ran, -1 when it was ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        code = 1
        try:
            asyncio.run(run(url, world, _struck(job, limit, writer)))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return -1
    if os.waitstatus_to_exitcode(status):
        raise AssertionError("the job failed by itself")
    return int(text)


def _struck(job: Job, limit: int, writer: int) -> Job:
    async def whole(world: World, hub: Hub) -> None:
        seen = _count(hub.store, limit)
        await job(world, hub)
        if seen[0] + 1 == limit:
            # After everything, before anybody is answered.
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(writer, str(seen[0]).encode())

    return whole


async def state(url: str) -> tuple[dict[str, list[str]], dict[str, int], bool]:
    """Return the rows of every table, the hub's records by action, and whether the log holds together."""
    store = await open_store(url)
    log = AuditLog(store.audit, _KEY, lambda: "", SystemClock())
    await log.settle()
    rows: dict[str, list[str]] = {}
    async with store._db.read() as connection:
        for table in metadata.sorted_tables:
            if table.name in _APART:
                continue
            columns = [column for column in table.columns if column.name not in _CHANCE]
            found = (await connection.execute(select(*columns))).all()
            rows[table.name] = sorted(repr(tuple(row)) for row in found)
    actions: dict[str, int] = {}
    previous = ""
    whole = True
    for row in await store.audit.records(0, 10_000):
        record = json.loads(row.record)
        whole = whole and (not previous or record["prev"] == previous)
        previous = record_digest(row.record)
        if record["decision"] in {"done", "allow"}:
            actions[record["action"]] = actions.get(record["action"], 0) + 1
    await store.close()
    return rows, actions, whole


_KEY = keys.new_signing_key()


def strikes(count: int, step: int) -> Iterator[int]:
    """Statements to end at: every ``step``-th from a chance one, and always the last ones."""
    first = random.randrange(step)
    yield from (at for at in range(1, count + 2) if (at - first) % step == 0 or at > count - 1)


def main(arguments: list[str]) -> int:
    """Try everything on one kind of database; print counts and violations."""
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    database, step = database_of(arguments[0]), int(arguments[1])
    world = World()
    asyncio.run(run(database.url, world, set_up))
    asyncio.run(state(database.url))
    stage = database.save()
    before = asyncio.run(state(database.url))
    result: dict[str, Any] = {"kills": 0, "undone": 0, "done": 0, "violations": []}
    for name, (action, job) in MUTATIONS.items():
        database.restore(stage)
        count = attempt(database.url, world, job, 0)
        after = asyncio.run(state(database.url))
        if after[1].get(action, 0) != before[1].get(action, 0) + 1:
            result["violations"].append(f"{name}: no record of its own")
        for at in strikes(count, step):
            database.restore(stage)
            if attempt(database.url, world, job, at) != -1:
                continue
            _judge(result, f"{name} at {at} of {count}", asyncio.run(state(database.url)), before, after)
    sys.stdout.write(json.dumps(result) + "\n")
    return 1 if result["violations"] else 0


def _judge(result: dict[str, Any], where: str, found: Any, before: Any, after: Any) -> None:
    result["kills"] += 1
    if found[:2] == before[:2] and found[2]:
        result["undone"] += 1
    elif found[:2] == after[:2] and found[2]:
        result["done"] += 1
    else:
        result["violations"].append(where)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
