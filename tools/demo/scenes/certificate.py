"""Who may speak: only a certificate of the hub's own authority, and only for the name that is in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import grpc.aio

from agent.link.channels import link_channel
from agent.link.identity import IdentityStore, LinkIdentity
from cellward.identity import keys as keymod
from cellward.identity.names import SpiffeId
from cellward.identity.x509 import issue_leaf, make_ca, to_pem
from cellward.wire.v1 import content_pb2, content_pb2_grpc, link_pb2, link_pb2_grpc, types_pb2
from tools.demo.narrate import StepFailedError
from tools.demo.scenes.main_job import wait_policy
from tools.demo.stage import Stage
from tools.demo.summary import Summary

_TIMEOUT = 15.0


@dataclass(frozen=True)
class Answer:
    """What the hub's first frame was: ``welcome`` or the code of a refusal, and the reason it gave."""

    what: str
    reason: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of each way to speak; see :func:`holds`."""

    foreign: str
    served: str
    claimed: Answer
    itself: Answer


def holds(found: Outcome) -> bool:
    """Whether strangers stay outside for the reason meant, and eu-1 itself gets in by both ways."""
    refused = found.claimed.what == "link/hello-refused" and "uid" in found.claimed.reason
    return found.foreign == "UNAVAILABLE" and refused and (found.served, found.itself.what) == ("served", "welcome")


def foreign_certificate(stage: Stage, summary: Summary) -> None:
    """Dial the link with a certificate of another CA, and with eu-1's while claiming to be us-1; control: as eu-1."""
    genuine = _identity(stage, "eu-1")
    clusters = {cluster["name"]: cluster for cluster in stage.api.get("/clusters")["items"]}
    realm = stage.api.get("/trust")["realm"]
    # Its own boot: another one with the same key would be a copy of it, and lock both (V7).
    boot_id = _boot_id(stage, "eu-1")
    own = _hello(genuine, realm, boot_id, clusters["eu-1"])
    # eu-1's own Hello in every field but one.
    claim = _hello(genuine, realm, boot_id, clusters["eu-1"])
    claim.facts.uid = clusters["us-1"]["uid"]

    async def work() -> Outcome:
        return Outcome(
            foreign=await _fetch(_foreign(genuine, "us-1")),
            served=await _fetch(genuine),
            claimed=await _greet(genuine, claim),
            itself=await _greet(genuine, own),
        )

    with stage.narrator.guarded("certificates"):
        found = asyncio.run(work())
        stage.narrator.step(
            f"another CA: {found.foreign}; eu-1 with the uid of us-1: {found.claimed.what} ({found.claimed.reason}); "
            f"control, eu-1 as itself: {found.served}, {found.itself.what}"
        )
        held = holds(found)
        summary.put("foreign_certificate_refused", held)
        stage.narrator.verdict(
            held,
            "neither a foreign certificate nor a claimed name opens the link; the right one does",
            "the link was opened to somebody it must not be opened to, or not to eu-1 itself",
        )
        # The control took the place of eu-1's stream, as a reconnect of the same boot does.
        stage.wait_connected("eu-1")
        wait_policy(stage, clusters["eu-1"]["policy"]["snapshot"])


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


def _boot_id(stage: Stage, cluster: str) -> str:
    """What the agent calls its boot; the hub alone knows it, and its API shows a digest."""
    with contextlib.closing(sqlite3.connect(f"file:{stage.hub_data / 'hub.db'}?mode=ro", uri=True)) as connection:
        (report,) = connection.execute("SELECT report FROM clusters WHERE name = ?", (cluster,)).fetchone()
    return str(json.loads(report)["boot_id"])


def _hello(identity: LinkIdentity, realm: str, boot_id: str, cluster: dict[str, Any]) -> link_pb2.Hello:
    """What the agent of a cluster says, as far as the hub compares it with what the cluster is bound to."""
    facts = cluster["facts"]
    return link_pb2.Hello(
        protocol_min=1,
        protocol_max=1,
        realm=realm,
        boot_id=boot_id,
        epoch=1,
        generation=identity.generation,
        facts=types_pb2.ClusterFacts(
            uid=cluster["uid"],
            environments=facts["environments"],
            production=facts["production"],
            region=facts["region"],
            projects=facts["projects"],
        ),
        statement_keyid=cluster["statementKeyid"],
    )


async def _greet(identity: LinkIdentity, hello: link_pb2.Hello) -> Answer:
    """Open a Sync stream with a Hello; return the first answer."""

    async def frames() -> AsyncIterator[link_pb2.AgentFrame]:
        yield link_pb2.AgentFrame(stream_id=uuid.uuid4().hex, seq=1, hello=hello)
        await asyncio.sleep(_TIMEOUT)

    channel = link_channel(identity)
    try:
        stub = link_pb2_grpc.LinkStub(channel)
        async for frame in stub.Sync(frames(), timeout=_TIMEOUT):
            if frame.HasField("refusal"):
                return Answer(frame.refusal.code, frame.refusal.reason)
            return Answer(str(frame.WhichOneof("body")))
    except grpc.aio.AioRpcError as error:
        codes = [str(value) for key, value in error.trailing_metadata() or () if key == "cellward-code"]
        return Answer(codes[0] if codes else error.code().name, error.details() or "")
    finally:
        await channel.close()
    return Answer("closed")
