"""A thief with an agent's key, against a hub that locked it: cut on every listener, now and after a restart (V4)."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from cellward.identity import keys
from cellward.identity.recovery import sign_recovery
from cellward.identity.x509 import make_csr
from cellward.runtime.clock import SystemClock
from cellward.wire.v1 import (
    content_pb2,
    content_pb2_grpc,
    enrolment_pb2,
    enrolment_pb2_grpc,
    identity_pb2,
    identity_pb2_grpc,
    telemetry_pb2,
    telemetry_pb2_grpc,
)
from hub.authority.copies import Copies
from hub.authority.tokens import JoinTokens
from hub.clusters.directory import Directory
from hub.clusters.locks import LocksInForce
from hub.store.interfaces import LockRow
from hub.store.sql.store import SqlStore, open_store
from hub.sync.limits import SyncLimits
from tests.fakes.authority import REALM
from tests.fakes.bare_agent import BareAgent, failure, stream
from tests.fakes.clock import a_second
from tests.fakes.ports import FakeLinkHub

_DENIED = (grpc.StatusCode.PERMISSION_DENIED, "authority/locked")
_NAME = [("grpc.ssl_target_name_override", "hub.cellward.internal")]


def on_store(hub: FakeLinkHub, store: SqlStore) -> None:
    """Let the hub of the test keep bindings and locks where a real one does."""
    locks = LocksInForce(store.locks, store.changes)
    identity = hub.hub.identity
    identity._store, identity._locks = store, locks
    identity._tokens = hub.hub.join_tokens = JoinTokens(store.tokens, hub.clock)
    identity.copies = Copies(store, hub.clock)
    hub.ports = replace(
        hub.ports, directory=Directory(store.clusters, locks, store.changes), changes=store.changes, fleet=hub.fleet
    )


def _fetch(channel: grpc.aio.Channel) -> Any:
    return content_pb2_grpc.ContentStub(channel).Fetch(content_pb2.FetchRequest(digest="sha256:" + "0" * 64))


async def is_let_in(hub: FakeLinkHub, agent: BareAgent) -> None:
    """Call until the hub has seen that a lock is gone."""
    async with agent.channel(hub) as channel, asyncio.timeout(30):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await _fetch(channel).read()
                return
            await asyncio.sleep(0.02)


async def everything_is_refused(hub: FakeLinkHub, thief: BareAgent) -> None:
    """New connections of whoever has key and certificate: calls, renewal, recovery, and a join with what is left."""
    async with thief.channel(hub) as channel:
        assert await failure(_fetch(channel).read()) == _DENIED
        renewal = identity_pb2.RenewRequest(csr_der=make_csr(keys.new_tls_key()))
        assert await failure(identity_pb2_grpc.IdentityStub(channel).Renew(renewal)) == _DENIED
        async with stream(channel) as link:
            # The call may have ended before the first frame is on its way.
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await link.send(hello=thief.hello())
            assert await link.ended() == _DENIED
    credentials = grpc.ssl_channel_credentials(hub.hub.authority.hub_ca_pem)
    async with grpc.aio.secure_channel(hub.enrolment.address, credentials, _NAME) as channel:
        stub, key = enrolment_pb2_grpc.EnrolmentStub(channel), keys.new_tls_key()
        request = enrolment_pb2.RecoverRequest(cluster_uid=thief.uid, csr_der=make_csr(key))
        request.nonce = (await stub.Recover(request)).nonce
        request.signature = sign_recovery(thief.key, request.nonce, REALM, thief.uid, keys.spki_of(key))
        request.bound_spki_der = keys.spki_of(thief.key)
        assert await failure(stub.Recover(request)) == _DENIED


@pytest.mark.parametrize("kind", ["agent", "cluster", "key", "serial"])
async def test_v4_a_lock_cuts_every_stream_within_a_second_and_outlives_a_restart(tmp_path: Path, kind: str) -> None:
    """V4: Sync and telemetry streams end within 1 s; nothing opens again on any listener, after a restart either."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'hub.db'}"
    store = await open_store(url)
    hub = FakeLinkHub(SystemClock(), SyncLimits())
    on_store(hub, store)
    thief, bystander = BareAgent("eu-1"), BareAgent("us-1")
    async with hub.running():
        for agent in (thief, bystander):
            await store.clusters.create(agent.name, "test")
            await agent.join(hub, await _token(hub, agent.name))
        row = await store.clusters.get("eu-1")
        assert row is not None
        subject = {"agent": row.uid, "cluster": "eu-1", "key": row.spki_sha256, "serial": row.serial}[kind]
        async with thief.channel(hub) as channel, stream(channel) as link, bystander.channel(hub) as other:
            push = telemetry_pb2_grpc.TelemetryStub(channel).PushMetrics()
            await push.write(telemetry_pb2.MetricsBatch(seq=1))
            assert (await push.read()).seq == 1
            await link.send(hello=thief.hello())
            await link.receive("welcome")
            await link.receive("revision_mark")
            async with stream(other) as theirs:
                await theirs.send(hello=bystander.hello())
                await theirs.receive("welcome")
                await store.locks.put(LockRow(kind, subject, "key stolen", hub.clock.now(), "alice"))
                locked = time.monotonic()
                assert await link.ended() == _DENIED
                assert await push.code() is grpc.StatusCode.PERMISSION_DENIED
                assert time.monotonic() - locked < a_second()
                # Nobody else is cut.
                assert (await theirs.receive("revision_mark")).seq == 2
        await everything_is_refused(hub, thief)
    await store.close()
    store = await open_store(url)
    on_store(hub, store)
    async with hub.running():
        await everything_is_refused(hub, thief)
        await store.locks.remove(kind, subject)
        await is_let_in(hub, thief)
        async with thief.channel(hub) as channel, stream(channel) as link:
            await link.send(hello=thief.hello())
            await link.receive("welcome")
    await store.close()


async def _token(hub: FakeLinkHub, cluster: str) -> str:
    return await hub.hub.join_tokens.mint(cluster)
