"""Who may speak: only a certificate of the hub's own authority, and only for the name that is in it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import grpc.aio

from agent.link.channels import link_channel
from agent.link.identity import IdentityStore, LinkIdentity
from cellward.identity import keys as keymod
from cellward.identity.names import SpiffeId
from cellward.identity.x509 import issue_leaf, make_ca, to_pem
from cellward.wire.v1 import content_pb2, content_pb2_grpc, link_pb2, link_pb2_grpc, types_pb2
from tools.demo.narrate import StepFailedError
from tools.demo.stage import Stage
from tools.demo.summary import Summary

_TIMEOUT = 15.0


def foreign_certificate(stage: Stage, summary: Summary) -> None:
    """Dial the link with a certificate of another CA, and with eu-1's while claiming to be us-1; control: as eu-1."""
    genuine = _identity(stage, "eu-1")
    uids = {cluster["name"]: cluster["uid"] for cluster in stage.api.get("/clusters")["items"]}
    realm = stage.api.get("/trust")["realm"]

    async def work() -> tuple[str, str, str]:
        return (
            await _fetch(_foreign(genuine, "us-1")),
            await _claim(genuine, realm, uids["us-1"]),
            await _fetch(genuine),
        )

    with stage.narrator.guarded("certificates"):
        foreign, claim, control = asyncio.run(work())
        stage.narrator.step(f"another CA: {foreign}; eu-1 claiming us-1: {claim}; control, eu-1 as itself: {control}")
        held = foreign == "UNAVAILABLE" and claim == "link/hello-refused" and control == "served"
        summary.put("foreign_certificate_refused", held)
        stage.narrator.verdict(
            held,
            "neither a foreign certificate nor a claimed name opens the link; the right one does",
            "the link was opened to somebody it must not be opened to",
        )


def _identity(stage: Stage, cluster: str) -> LinkIdentity:
    found = IdentityStore(stage.agent_directory(cluster) / "state" / "identity").load()
    if found is None:
        raise StepFailedError(f"{cluster} has no identity on its disk")
    return found


def _foreign(genuine: LinkIdentity, name: str) -> LinkIdentity:
    """The same shape in every respect, but issued by an authority of our own."""
    now = datetime.now(UTC)
    authority = make_ca("Cellward agent CA", keymod.new_tls_key(), now)
    key = keymod.new_tls_key()
    uri = SpiffeId(genuine.trust_domain, "agent", name)
    leaf = issue_leaf(authority, key.public_key(), kind="agent", uri=uri, now=now, generation=1)
    chain = (to_pem(leaf) + authority.pem).decode()
    return replace(genuine, key_pem=keymod.private_to_pem(key, None).decode(), chain_pem=chain, name=name)


async def _fetch(identity: LinkIdentity) -> str:
    """Ask for the first root, which every agent may have; return "served" or the status code."""
    channel = link_channel(identity)
    try:
        stub = content_pb2_grpc.ContentStub(channel)
        request = content_pb2.FetchRequest(tuf=content_pb2.TufMetadata(role="root", version=1))
        size = 0
        async for chunk in stub.Fetch(request, timeout=_TIMEOUT):
            size += len(chunk.data)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    finally:
        await channel.close()
    return "served" if size else "empty"


async def _claim(identity: LinkIdentity, realm: str, uid: str) -> str:
    """Open a Sync stream as ``identity`` with a Hello about another cluster; return the code of the refusal."""
    hello = link_pb2.Hello(
        protocol_min=1,
        protocol_max=1,
        realm=realm,
        boot_id=uuid.uuid4().hex,
        epoch=1,
        generation=identity.generation,
        facts=types_pb2.ClusterFacts(uid=uid, environments=["production"], production=True, projects=["*"]),
        statement_keyid="0" * 64,
    )

    async def frames() -> AsyncIterator[link_pb2.AgentFrame]:
        yield link_pb2.AgentFrame(stream_id=uuid.uuid4().hex, seq=1, hello=hello)
        await asyncio.sleep(_TIMEOUT)

    channel = link_channel(identity)
    try:
        stub = link_pb2_grpc.LinkStub(channel)
        async for frame in stub.Sync(frames(), timeout=_TIMEOUT):
            return str(frame.refusal.code) if frame.HasField("refusal") else str(frame.WhichOneof("body"))
    except grpc.aio.AioRpcError as error:
        codes = [str(value) for key, value in error.trailing_metadata() or () if key == "cellward-code"]
        return codes[0] if codes else error.code().name
    finally:
        await channel.close()
    return "closed"
