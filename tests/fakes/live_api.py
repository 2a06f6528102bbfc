"""The admin API in this process over real parts: SQLite, audit log, TUF repository, authority and TLS.

There are no listeners for agents: a test plays their part by calling the fleet's port.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

from aiohttp import web

from cellward.documents.dsse import Ed25519Signer
from cellward.identity import contexts, keys
from cellward.identity.x509 import make_ca
from cellward.runtime.clock import SystemClock
from cellward.runtime.health import HealthRegistry
from cellward.wire.v1 import link_pb2, types_pb2
from hub.api.app import make_api_app
from hub.api.auth import hash_token
from hub.api.interfaces import HubFacts, Services
from hub.audit.segments import Segments
from hub.audit.service import AuditLog
from hub.authority.authority import Authority
from hub.authority.model import HubKeys
from hub.authority.tokens import JoinTokens
from hub.clusters.locks import LockBook
from hub.clusters.service import ClusterService
from hub.documents.intake import KeyringPort
from hub.documents.realm import RealmService
from hub.documents.served import ServedKeyring
from hub.documents.service import DocumentService
from hub.keeping import Keeping
from hub.metrics.service import FleetMetrics
from hub.policy.service import TufRepository
from hub.store.sql.small import SqlApiTokens
from hub.store.sql.store import SqlStore, open_store
from hub.store.tokens import ApiTokenRow
from hub.sync.links import Links
from tests.fakes.rooms import make_rooms

#: Bearer tokens of the roles.
TOKENS = {"viewer": "viewer-token", "deployer": "deployer-token", "admin": "admin-token"}


class Bearers(SqlApiTokens):
    """The tokens of the store, and known ones beside them."""

    def __init__(self, store: SqlStore, by_hash: Mapping[str, ApiTokenRow]) -> None:
        super().__init__(store._db)
        self._by_hash = by_hash

    async def get(self, token_hash: str) -> ApiTokenRow | None:
        """The token of this hash."""
        return self._by_hash.get(token_hash) or await super().get(token_hash)


@dataclass
class LiveApi:
    """A running API and what is behind it."""

    server: str
    ca_pem: bytes
    store: SqlStore
    services: Services
    health: HealthRegistry
    keys: HubKeys

    @property
    def clusters(self) -> ClusterService:
        """Clusters, as the link would talk to them."""
        return self.services.clusters

    @property
    def documents(self) -> DocumentService:
        """Documents that are kept."""
        return self.services.documents

    async def agent_joins(
        self,
        name: str,
        *environments: str,
        production: bool = False,
        region: str = "",
        stream: str = "s1",
        version: str = "0.1.0",
    ) -> None:
        """Play an agent: bound, connected, facts told."""
        uid = f"00000000-0000-4000-8000-{abs(hash(name)) % 10**12:012d}"
        await self.store.clusters.bind(name, uid, "0" * 64, b"spki", 1, "1")
        facts = types_pb2.ClusterFacts(
            uid=uid, environments=environments, production=production, region=region, projects=["*"]
        )
        await self.clusters.hello(name, link_pb2.Hello(facts=facts, agent_version=version, boot_id="b1"))
        await self.clusters.connected(name, stream)


def hub_keys() -> HubKeys:
    """Fresh keys of a hub."""
    now = SystemClock().now()
    return HubKeys(
        make_ca("agents", keys.new_tls_key(), now),
        make_ca("hubs", keys.new_tls_key(), now),
        keys.new_signing_key(),
        keys.new_signing_key(),
        keys.new_signing_key(),
    )


def make_services(
    store: SqlStore, made: HubKeys, health: HealthRegistry, keyring: KeyringPort | None = None
) -> Services:
    """Compose what the API needs, as ``hub.app`` does."""
    clock = SystemClock()
    realm = RealmService(store.meta)
    audit = AuditLog(store.audit, made.tree_head, lambda: realm.realm, clock)
    policy = TufRepository(store.tuf, Ed25519Signer(made.timestamp), clock)
    rooms = make_rooms(store, realm, clock, keyring or ServedKeyring(policy, store.changes))
    bearers = {hash_token(text): ApiTokenRow(hash_token(text), role, role, None) for role, text in TOKENS.items()}
    expired = hash_token("expired-token")
    bearers[expired] = ApiTokenRow(expired, "late", "admin", clock.now() - timedelta(seconds=1))

    def facts() -> HubFacts:
        return HubFacts(
            version="0.1.0",
            timestamp_spki=keys.spki_of(made.timestamp),
            tree_head_spki=keys.spki_of(made.tree_head),
            log_origin=audit.origin,
            hub_ca_pem=made.hub_ca.pem.decode(),
            enrolment_address="hub.example:7441",
        )

    return Services(
        clock=clock,
        tokens=Bearers(store, bearers),
        store=store,
        audit=audit,
        clusters=rooms.clusters,
        documents=rooms.documents,
        locks=LockBook(store, clock),
        realm=realm,
        policy=policy,
        enrolment=JoinTokens(store.tokens, clock),
        health=health,
        facts=facts,
        segments=Segments(store.audit, lambda: realm.realm, 256),
        keeping=Keeping("sqlite://", None, store, clock),
        send_command=partial(Links(store.links, store.changes, "this", clock).send, most=16),
        fleet=FleetMetrics(clock),
    )


@asynccontextmanager
async def live_api(directory: Path, made: HubKeys | None = None) -> AsyncIterator[LiveApi]:
    """Run the API on loopback with TLS until the context ends; with fresh keys unless some are given."""
    store = await open_store(f"sqlite+aiosqlite:///{directory / 'hub.db'}")
    made, health = made or hub_keys(), HealthRegistry(SystemClock())
    services = make_services(store, made, health)
    leaf = Authority(made, services.clock, lambda: None).issue_hub(dns=["localhost"], ips=["127.0.0.1"])
    runner = web.AppRunner(make_api_app(services), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=contexts.server_context(leaf.chain_pem, leaf.key_pem))
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield LiveApi(f"https://127.0.0.1:{port}", made.hub_ca.pem, store, services, health, made)
    finally:
        await runner.cleanup()
        await store.close()
