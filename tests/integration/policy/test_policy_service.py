"""The agent's policy on the real engine and the real python-tuf: staging, switch, floors, restart."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tuf.api.metadata import Metadata, MetaFile, Snapshot

from agent.policy.interfaces import TimeKeeper
from agent.policy.opa import OpaProcess
from agent.policy.service import PolicyService
from agent.spool.errors import FULL
from agent.spool.state import open_state
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.facts import Selector
from cellward.errors import CellwardError
from cellward.policy import capabilities
from cellward.policy.bundle import read_bundle
from cellward.policy.compile import Compiler
from cellward.policy.model import Mode, Violation
from cellward.policy.signing import TufSigner
from cellward.runtime.files import write_atomic
from cellward.runtime.health import HealthRegistry
from tests.fakes.clock import ManualClock
from tests.fakes.policy import (
    FACTS,
    MemorySource,
    PolicyWorld,
    archive,
    binding,
    denying,
    keys_of,
    now,
    request,
    serve,
    starter_archive,
    thing,
)

pytestmark = pytest.mark.real


class MemoryFloors:
    """A second place for floors, which outlives the policy directory."""

    def __init__(self) -> None:
        self.value: Any = None
        self.error: Exception | None = None

    async def get(self) -> Any:
        """Return what was set."""
        return self.value

    async def set(self, value: Mapping[str, object]) -> None:
        """Keep it."""
        if self.error is not None:
            raise self.error
        self.value = json.loads(json.dumps(value))


class Agent:
    """One agent's policy on a state directory that survives restarts."""

    def __init__(self, world: PolicyWorld, state: Path, opa: Path) -> None:
        self.world, self.state, self.opa = world, state, opa
        self.health = HealthRegistry()
        self.floors = MemoryFloors()
        self.clock = ManualClock(now())
        self.time_floor: TimeKeeper | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[PolicyService]:
        service = PolicyService(
            state_dir=self.state,
            root=self.world.root,
            realm=self.world.realm,
            facts=FACTS,
            opa_binary=self.opa,
            clock=self.clock,
            health=self.health,
            floors=self.floors,
            time_floor=self.time_floor,
        )
        await service.start()
        try:
            yield service
        finally:
            await service.close()

    def condition(self, name: str) -> str:
        return next(item.code for item in self.health.get() if item.name == name)

    def files(self) -> dict[str, bytes]:
        """Every file of the policy on disk."""
        found = sorted(path for path in (self.state / "policy").rglob("*") if path.is_file())
        return {str(path): path.read_bytes() for path in found}

    def message(self, name: str) -> str:
        return next((item.message for item in self.health.get() if item.name == name), "")


@pytest.fixture
def world() -> PolicyWorld:
    """Return an authority; its hub serves whole sets, as hubs do; singly is in ``tests/unit/agent/policy``."""
    made = PolicyWorld()
    made.source.whole = True
    return made


@pytest.fixture
def agent(world: PolicyWorld, tmp_path: Path, opa_binary: Path) -> Agent:
    """Return an agent's policy, not yet running."""
    return Agent(world, tmp_path, opa_binary)


async def denied(service: PolicyService, world: PolicyWorld, kind: str) -> bool:
    """Whether an object of a kind is refused."""
    decision = await service.evaluator.decide(request(world.realm, thing(kind)))
    return not decision.allowed


async def refused(service: PolicyService, source: MemorySource) -> str:
    """Return the code a refresh is refused with."""
    with pytest.raises(CellwardError) as caught:
        await service.refresh(source)
    return caught.value.code


async def eventually(probe: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Poll until it holds, or fail."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not await probe():
        assert asyncio.get_running_loop().time() < deadline, "the condition never came true"
        await asyncio.sleep(0.02)


async def test_without_a_set_nothing_is_allowed_v8(world: PolicyWorld, agent: Agent) -> None:
    """V8: no verified set, no decision, with its own code."""
    async with agent.running() as service:
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("ConfigMap")))
        assert caught.value.code == "policy/no-verified-set"
        assert agent.condition("policy-set") == "policy/no-verified-set"
        assert await refused(service, MemorySource()) == "policy/nothing-published"


async def test_accepts_decides_and_survives_a_restart_offline_v1(world: PolicyWorld, agent: Agent) -> None:
    """V1, V8: an accepted set decides; after a restart with the hub away it decides again."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        accepted = await service.refresh(world.source)
        assert accepted is not None
        assert (accepted.snapshot_version, accepted.targets_version) == (1, 1)
        decision = await service.evaluator.decide(request(world.realm, thing("Bad"), thing("Good")))
        assert [(item.rule, item.object, item.remediation) for item in decision.violations] == [
            ("base/no", "Bad/shop--front--dev/x", "leave it out")
        ]
        assert not await denied(service, world, "Good")
    async with agent.running() as service:
        assert service.current == accepted
        assert await denied(service, world, "Bad")
        world.source.down = True
        assert await refused(service, world.source) == "policy/content-unreachable"
        assert await denied(service, world, "Bad")


async def test_one_bad_snapshot_does_not_wedge(world: PolicyWorld, agent: Agent) -> None:
    """V16: a validly signed snapshot whose targets never verify is refused, and the next good one is accepted."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        bad = world.source.copy()
        publication = world.make([denying("Good")])
        serve(bad, publication)
        bad.metadata["targets", 2] = bad.metadata["targets", 2].replace(b"targets", b"target$")
        world.timestamp(bad)
        assert await refused(service, bad) == "policy/unverified"
        assert not list((agent.state / "policy" / "staged").iterdir())
        assert await denied(service, world, "Bad")
        world.publish(denying("Worse", version="1.0.1"))
        assert await service.refresh(world.source) is not None
        assert await denied(service, world, "Worse")


async def test_forged_targets_refused_and_later_good_accepted(world: PolicyWorld, agent: Agent) -> None:
    """V8: targets by a wrong key, under real publisher and hub keys; the good set still decides, a good one follows."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        forged = world.source.copy()
        serve(forged, world.forge(denying("Good", version="6.6.6")))
        world.timestamp(forged)
        assert await refused(service, forged) == "policy/unverified"
        assert await denied(service, world, "Bad")
        assert not await denied(service, world, "Good")
        world.publish(denying("Worse", version="1.0.1"))
        await service.refresh(world.source)
        assert await denied(service, world, "Worse")
        assert not await denied(service, world, "Bad")


async def test_replayed_targets_refused_also_after_restart(world: PolicyWorld, agent: Agent) -> None:
    """V8: older targets and snapshot under a newer timestamp made with the hub's real key; also after a restart."""
    world.publish(denying("Old"))
    old = world.source.copy()
    world.publish(denying("Bad", version="1.0.1"))
    replay = old.copy()
    world.timestamp(replay, version=50)
    world.timestamp_version = 2
    async with agent.running() as service:
        await service.refresh(world.source)
        assert await refused(service, replay) == "policy/rollback"
        assert await denied(service, world, "Bad")
    async with agent.running() as service:
        assert await refused(service, replay) == "policy/rollback"
        assert await denied(service, world, "Bad")
        world.publish(denying("Worse", version="1.0.2"))
        await service.refresh(world.source)
        assert await denied(service, world, "Worse")


async def test_floors_survive_a_root_that_replaces_keys(world: PolicyWorld, agent: Agent) -> None:
    """§10: python-tuf forgets versions when a root replaces snapshot and timestamp keys; our floors do not."""
    world.publish(denying("Old"))
    world.publish(denying("Bad", version="1.0.1"))
    async with agent.running() as service:
        await service.refresh(world.source)
    world.publisher_key, world.hub_key = Ed25519Signer.generate(), Ed25519Signer.generate()
    world.rotate(snapshot=keys_of(world.publisher_key), timestamp=keys_of(world.hub_key))
    present, floors = world.state, world.floors
    replay = world.source.copy()
    world.state = replace(world.state, targets=None, keyring=None, snapshot=None)
    world.floors = type(floors)()
    serve(replay, world.make([denying("Good")]))
    del replay.metadata["snapshot", 2]
    world.timestamp(replay, version=1)
    world.state, world.floors = present, floors
    async with agent.running() as service:
        assert await refused(service, replay) == "policy/rollback"
        assert await denied(service, world, "Bad")
        world.state = replace(world.state, snapshot=None)
        world.floors = type(floors)({key: value for key, value in floors.roles.items() if key != "snapshot"})
        for _ in range(3):
            world.take(world.make([denying("Worse", version="1.0.2")]), timestamp=False)
        world.timestamp(version=1)
        assert await service.refresh(world.source) is not None, "the timestamp floor alone is reset by the new root"
        assert await denied(service, world, "Worse")


async def test_timestamp_floor_holds_without_a_new_root(world: PolicyWorld, agent: Agent) -> None:
    """An older timestamp for the same snapshot is refused while the root is the same, also when the set was lost."""
    world.publish(denying("Bad"))
    world.timestamp(version=9)
    async with agent.running() as service:
        await service.refresh(world.source)
    (agent.state / "policy" / "current.json").write_bytes(b"{}")
    world.timestamp(version=8)
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == ["policy/state-corrupt"]
        assert await refused(service, world.source) == "policy/rollback"


async def test_other_timestamp_of_the_same_version_is_refused(world: PolicyWorld, agent: Agent) -> None:
    """Two timestamps of one version: somebody else holds the hub's key. python-tuf keeps the first and says nothing."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        forked = world.source.copy()
        world.timestamp(forked, version=1, life=timedelta(hours=11))
        assert await refused(service, forked) == "policy/rollback"
        assert agent.condition("policy-set") == "policy/rollback"
        assert await service.refresh(world.source) is None


async def test_timestamp_of_a_version_ahead_of_the_clock_is_refused(world: PolicyWorld, agent: Agent) -> None:
    """A stolen hub key must not raise the floor, which never falls, out of the honest hub's reach."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        for version, code in ((2**64, "policy/unverified"), (2**53 - 1, "policy/timestamp-ahead")):
            stolen = world.source.copy()
            world.timestamp(stolen, version=version)
            assert await refused(service, stolen) == code
        world.timestamp(version=2)
        assert await service.refresh(world.source) is not None


async def test_timestamp_that_lives_too_long_is_refused(world: PolicyWorld, agent: Agent) -> None:
    """§2: a timestamp living longer than 24 h would let the hub's key freeze policy."""
    world.publish(denying("Bad"))
    world.timestamp(life=timedelta(hours=25))
    async with agent.running() as service:
        assert await refused(service, world.source) == "policy/timestamp-too-long"
        assert service.current is None
        world.timestamp(life=timedelta(hours=24))
        assert await service.refresh(world.source) is not None


async def test_expired_metadata_is_refused_and_the_old_set_decides(world: PolicyWorld, agent: Agent) -> None:
    """V8: an expired snapshot or timestamp brings nothing new; staleness counts from the snapshot's expiry."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        old = world.source.copy()
        world.timestamp(old, at=now() - timedelta(hours=20))
        assert await refused(service, old) == "policy/expired"
        world.publish(denying("Good", version="1.0.1"), at=now() - timedelta(days=8))
        assert await refused(service, world.source) == "policy/expired"
        assert await denied(service, world, "Bad")
        assert service.current is not None
        expires = service.current.snapshot_expires
        late = service.staleness(expires + timedelta(hours=25))
        assert late is not None
        assert (late.seconds, late.verdict) == (25 * 3600, "refuse-new")
        early = service.staleness(expires + timedelta(hours=23))
        assert early is not None
        assert early.verdict == "fresh"


async def test_v8_clock_that_was_set_back_makes_no_policy_fresher(
    world: PolicyWorld, agent: Agent, tmp_path: Path
) -> None:
    """V8: staleness, decisions and acceptance go by the floor of the clock, and a step back is refused and told."""
    at = now()
    world.publish(archive("base", "1.0.0", 'deny contains input.time if input.object.kind == "Bad"'))
    opened = await open_state(tmp_path / "spool", clock=agent.clock)
    agent.time_floor = opened.db.time_floor
    try:
        async with agent.running() as service:
            await service.refresh(world.source)
            assert service.current is not None
            expires = service.current.snapshot_expires
            agent.clock.advance(9 * 86_400)
            world.refresh(at + timedelta(days=9))
            with pytest.raises(CellwardError):
                await service.refresh(world.source)
            stale = service.staleness(expires - timedelta(days=1))
            assert stale is not None
            assert stale.verdict == "refuse-new"
            decision = await service.evaluator.decide(request(world.realm, thing("Bad")))
            assert decision.violations[0].reason == (at + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%SZ")
            agent.clock._now -= timedelta(days=1)
            assert await refused(service, world.source) == "document/clock-stepped-back"
            assert agent.condition("policy-set") == "document/clock-stepped-back"
            assert agent.condition("clock") == ""
            agent.clock._now += timedelta(days=40)
            with pytest.raises(CellwardError):
                await service.refresh(world.source)
            assert agent.condition("clock") == "document/clock-jumped-ahead"
    finally:
        await opened.db.close()


async def test_renewed_timestamp_and_snapshot_keep_the_engine(world: PolicyWorld, agent: Agent) -> None:
    """A new timestamp or snapshot alone is made durable without a new engine."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert await service.refresh(world.source) is None
        world.timestamp()
        assert await service.refresh(world.source) is None
        assert service.current is not None
        assert service.current.timestamp_version == 2
        world.refresh()
        renewed = await service.refresh(world.source)
        assert renewed is not None
        assert renewed.snapshot_version == 2
        assert service.engine_pid == pid


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("does not compile", archive("base", "1.0.1", "deny contains x if { input.y }"), "policy/does-not-compile"),
        ("calls out", archive("base", "1.0.1", 'deny contains "x" if http.send({}).body'), "policy/does-not-compile"),
        (
            "asks the clock",
            archive("base", "1.0.1", 'deny contains "x" if time.now_ns() > 1'),
            "policy/does-not-compile",
        ),
        ("no such entrypoint", archive("base", "1.0.1", "x := 1"), "policy/canary-failed"),
        ("not a set", archive("base", "1.0.1", "deny := true"), "policy/canary-failed"),
        # Compiles alone, but not with the question: OPA would try to activate it for ever, and say "not ready" only.
        ("a function", archive("base", "1.0.1", "deny(x) := x"), "policy/does-not-compile"),
    ],
)
async def test_what_cannot_decide_never_replaces_what_does_v16(
    world: PolicyWorld, agent: Agent, name: str, data: bytes, code: str
) -> None:
    """V16: a correctly signed bundle that cannot decide leaves the old one deciding, and its floors untouched."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        before = (agent.floors.value, agent.files())
        world.publish(data)
        assert await refused(service, world.source) == code, name
        assert before == (agent.floors.value, agent.files())
        assert await denied(service, world, "Bad")
        assert service.engine_pid == pid
        assert agent.condition("policy-set") == code
        world.publish(denying("Worse", version="1.0.2"))
        await service.refresh(world.source)
        assert agent.condition("policy-set") == ""
        assert await denied(service, world, "Worse")


async def test_the_old_set_decides_until_the_new_one_is_warm(world: PolicyWorld, agent: Agent) -> None:
    """V16: under constant questions a switch loses none, and answers are those of one set or the other."""
    world.publish(denying("Bad", rule="base/old"))
    async with agent.running() as service:
        await service.refresh(world.source)
        enough = asyncio.Event()
        seen: list[str] = []

        async def ask() -> None:
            while not enough.is_set():
                decision = await service.evaluator.decide(request(world.realm, thing("Bad")))
                assert len(decision.violations) == 1
                seen.append(decision.violations[0].rule)

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ask())
            world.publish(denying("Bad", rule="base/new", version="1.0.1"))
            await service.refresh(world.source)
            marker = len(seen)
            await eventually(lambda: _true(len(seen) > marker + 20))
            enough.set()
        assert seen[0] == "base/old"
        assert seen[-1] == "base/new"
        first_new = seen.index("base/new")
        assert seen[first_new + 8 :].count("base/old") == 0, "an old answer long after the switch"


async def stop(pid: int) -> None:
    """Stop a process and wait until it is: its threads may still answer for a moment."""
    os.kill(pid, signal.SIGSTOP)
    tasks = Path(f"/proc/{pid}/task")
    await eventually(
        lambda: _true(all((one / "stat").read_text().rpartition(")")[2].split()[0] == "T" for one in tasks.iterdir()))
    )


async def _true(value: bool) -> bool:
    return value


async def test_corrupted_state_is_a_finding_and_allows_nothing_v8(world: PolicyWorld, agent: Agent) -> None:
    """V1, V8: one changed byte in the accepted set is found at start; nothing is allowed until a set verifies."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
    targets = sorted((agent.state / "policy" / "accepted").glob("*/targets/*"), key=lambda file: file.stat().st_size)
    data = targets[-1].read_bytes()
    targets[-1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == ["policy/state-corrupt"]
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("Good")))
        assert caught.value.code == "policy/no-verified-set"
        assert await service.refresh(world.source) is not None
        assert await denied(service, world, "Bad")


@pytest.mark.parametrize(
    ("put_back", "code"),
    [("accepted", "policy/state-corrupt"), ("current.json", "policy/state-corrupt"), ("", "policy/state-older")],
)
async def test_older_policy_put_back_is_a_finding_v1(
    world: PolicyWorld, agent: Agent, put_back: str, code: str
) -> None:
    """V1: an older set in place of the accepted one, a part of it or the whole directory, validly signed, is found."""
    world.publish(denying("Old"))
    place, kept = agent.state / "policy", agent.state / "kept"
    async with agent.running() as service:
        await service.refresh(world.source)
        older = world.source.copy()
        shutil.copytree(place, kept)
        world.publish(denying("Bad", version="1.0.1"))
        await service.refresh(world.source)
    if put_back == "accepted":
        shutil.copytree(kept / "accepted" / "1", place / "accepted" / "2", dirs_exist_ok=True)
    elif put_back:
        shutil.copy(kept / put_back, place / put_back)
    else:
        shutil.rmtree(place)
        shutil.copytree(kept, place)
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == [code]
        assert service.lost
        assert service.current is None
        world.timestamp(older)
        assert await refused(service, older) == "policy/rollback", "the floors outlive the set"
        world.timestamp()
        await service.refresh(world.source)
        assert await denied(service, world, "Bad")
    async with agent.running() as service:
        assert not service.lost


async def test_emptied_policy_is_a_finding_and_floors_survive_it_v1(world: PolicyWorld, agent: Agent) -> None:
    """V1: without the directory nothing is decided, and a hub cannot begin again with an older set."""
    async with agent.running() as service:
        assert not service.lost, "a first start is no finding"
        world.publish(denying("Old"))
        older = world.source.copy()
        world.publish(denying("Bad", version="1.0.1"))
        await service.refresh(world.source)
    shutil.rmtree(agent.state / "policy")
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == ["policy/state-older"]
        assert service.lost
        assert agent.condition("policy-set") == "policy/state-older"
        world.timestamp(older)
        assert await refused(service, older) == "policy/rollback"


async def test_floors_that_cannot_be_kept_elsewhere_do_not_keep_policy_back(world: PolicyWorld, agent: Agent) -> None:
    """V13: a full spool must not keep a revocation away; what could not be kept is kept at the next start."""
    world.publish(denying("Old"))
    async with agent.running() as service:
        agent.floors.error = FULL("the state file is full")
        await service.refresh(world.source)
        assert await denied(service, world, "Old")
        assert agent.floors.value is None
    agent.floors.error = None
    async with agent.running() as service:
        assert service.findings == ()
    assert agent.floors.value["targets"]["version"] == 1


async def test_power_cut_while_a_root_replaces_the_timestamp_key_v1(world: PolicyWorld, agent: Agent) -> None:
    """V1: of two copies of the floors the newer root's timestamp counts, or the agent would refuse its hub for good."""
    world.publish(denying("Bad"))
    world.timestamp(version=900)
    async with agent.running() as service:
        await service.refresh(world.source)
        before = agent.floors.value
        world.hub_key = Ed25519Signer.generate()
        world.rotate(timestamp=keys_of(world.hub_key))
        world.timestamp(version=3)
        await service.refresh(world.source)
    agent.floors.value = before
    async with agent.running() as service:
        assert service.findings == ()
        assert agent.floors.value["timestamp"]["version"] == 3
        world.timestamp(version=4)
        await service.refresh(world.source)
        assert service.current is not None
        assert service.current.timestamp_version == 4


async def test_no_engine_is_left_behind(world: PolicyWorld, agent: Agent) -> None:
    """Stopping the service ends its engine; a retired one is ended by the switch."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        first = service.engine_pid
        world.publish(denying("Worse", version="1.0.1"))
        await service.refresh(world.source)
        second = service.engine_pid
        assert first is not None
        assert second is not None
        assert not Path(f"/proc/{first}").exists()
    assert not Path(f"/proc/{second}").exists()


async def test_engine_dies_with_its_agent(world: PolicyWorld, agent: Agent, opa_binary: Path) -> None:
    """PR_SET_PDEATHSIG: SIGKILL of the agent takes the engine along."""
    script = (
        "import asyncio, pathlib, sys\n"
        "from agent.policy.opa import OpaProcess\n"
        "async def main():\n"
        "    process = OpaProcess(pathlib.Path(sys.argv[1]), [], 'package cellward_gate')\n"
        "    await process.start()\n"
        "    print(process.pid, process.socket, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(opa_binary), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    pid, socket = (await child.stdout.readline()).decode().split()
    assert Path(f"/proc/{pid}").exists()
    child.kill()
    await child.wait()
    await eventually(lambda: _true(_gone(int(pid))))
    shutil.rmtree(Path(socket).parent)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_a_cluster_no_binding_selects_is_refused(world: PolicyWorld, agent: Agent) -> None:
    """A verified set whose bindings select other clusters allows nothing here."""
    bad = denying("Bad")
    world.publish(bad, chosen=[binding(bad, selector=Selector(environments=("prod",)))])
    async with agent.running() as service:
        accepted = await service.refresh(world.source)
        assert accepted is not None
        assert not accepted.bundles
        decision = await service.evaluator.decide(request(world.realm, thing("Good")))
        assert [item.rule for item in decision.violations] == ["policy/no-binding"]
        elsewhere = await service.evaluator.decide(request(world.realm, thing("Good"), environment="prod"))
        assert [item.rule for item in elsewhere.violations] == ["policy/environment-not-hosted"]


async def test_guard_and_permissions(opa_binary: Path) -> None:
    """The socket is private, the environment empty; without the token nothing is answered, with it one question."""
    process = OpaProcess(opa_binary, [read_bundle(denying("Bad"))], "package cellward_gate\n\nresults := 1\n")
    await process.start()
    try:
        assert process.socket is not None
        assert process.socket.stat().st_mode & 0o777 == 0o600
        assert process.socket.parent.stat().st_mode & 0o777 == 0o700
        assert Path(f"/proc/{process.pid}/environ").read_bytes() == b""
        assert await process.ask({}) == 1
        connector = aiohttp.UnixConnector(path=str(process.socket))
        async with aiohttp.ClientSession(connector=connector) as session:
            for method, path in (
                ("GET", "/health"), ("GET", "/v1/data"), ("POST", "/v1/data/cellward_gate/results"),
                ("PUT", "/v1/policies/x"), ("GET", "/v1/config"), ("POST", "/v1/query"),
            ):  # fmt: skip
                async with session.request(method, f"http://localhost{path}", data=b"{}") as response:
                    assert response.status == 401, path
            assert process._client is not None
            bearer = {"Authorization": f"Bearer {process._client._token}"}
            for method, path, status in (
                ("POST", "/v1/data/cellward_gate/results", 200), ("GET", "/health", 200),
                ("GET", "/v1/data/cellward_gate/results", 401), ("POST", "/v1/data", 401), ("GET", "/v1/data", 401),
                ("POST", "/v1/data/base/deny", 401), ("POST", "/v0/data/cellward_gate/results", 401),
                ("POST", "/v1/data/cellward_gate/results/x", 401), ("PUT", "/v1/data/x", 401),
                ("PATCH", "/v1/data/x", 401),
                ("PUT", "/v1/policies/x", 401), ("GET", "/v1/policies", 401), ("DELETE", "/v1/policies/gate.rego", 401),
                ("GET", "/v1/config", 401), ("POST", "/v1/query", 401), ("POST", "/v1/compile", 401),
                ("POST", "/", 401), ("GET", "/metrics", 401),
            ):  # fmt: skip
                async with session.request(method, f"http://localhost{path}", data=b"{}", headers=bearer) as response:
                    assert response.status == status, (method, path)
    finally:
        await process.stop()


async def test_killed_engine_comes_back(world: PolicyWorld, agent: Agent) -> None:
    """OPA dead: decisions are refused with their own code meanwhile, and the engine is restarted."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert await _refused_until_recovered(service, world, pid) > 0
        assert agent.condition("policy-engine") == ""


async def test_hung_engine_is_replaced(world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """OPA hung: a query ends at its deadline, counts as a refusal, and the engine is replaced."""
    # Only the question itself may find it, not the health check that comes by now and then.
    monkeypatch.setattr("agent.policy.engine.HEALTH_INTERVAL", 3600.0)
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert pid is not None
        await stop(pid)
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("Good")))
        assert caught.value.code == "policy/engine-unavailable"
        await _refused_until_recovered(service, world, pid)


async def test_engine_that_lost_its_socket_is_replaced(world: PolicyWorld, agent: Agent) -> None:
    """A connection kept alive must not make an engine look healthy that nobody can newly reach."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        assert await denied(service, world, "Bad")
        pid = service.engine_pid
        assert pid is not None
        assert service.active is not None
        process = service.active.engines.deciding._process
        assert process is not None
        assert process.socket is not None
        shutil.rmtree(process.socket.parent)
        assert not await process.healthy()
        await _refused_until_recovered(service, world, pid)


async def _refused_until_recovered(service: PolicyService, world: PolicyWorld, pid: int) -> int:
    """Ask until another engine answers; return how often there was none, which must have its own code each time."""
    refusals = 0
    deadline = asyncio.get_running_loop().time() + 20
    while True:
        assert asyncio.get_running_loop().time() < deadline, "no other engine ever answered"
        try:
            decision = await service.evaluator.decide(request(world.realm, thing("Bad")))
        except CellwardError as error:
            if error.code != "policy/engine-unavailable":
                raise
            refusals += 1
        else:
            assert [violation.rule for violation in decision.violations] == ["base/no"]
            if service.engine_pid != pid:
                return refusals
        await asyncio.sleep(0.01)


async def test_v16_engine_that_finds_no_room_is_started_again_later(
    world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V16: a full /tmp refuses with its code, at start and later, and ends nothing: with room there is an engine."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert pid is not None
        with monkeypatch.context() as full:
            full.setattr("tempfile.tempdir", "/dev/null/full")
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: _true(agent.message("policy-engine").startswith("the engine cannot be started: ")))
            world.publish(denying("Worse", version="1.0.1"))
            assert await refused(service, world.source) == "policy/state-unwritable"
            with pytest.raises(CellwardError) as caught:
                await Compiler(agent.opa).check([read_bundle(denying("Bad"))])
            assert caught.value.code == "policy/engine-unavailable"
        await _refused_until_recovered(service, world, pid)
    with monkeypatch.context() as full:
        full.setattr("tempfile.tempdir", "/dev/null/full")
        running = agent.running()
        service = await running.__aenter__()
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("Good")))
        assert caught.value.code == "policy/engine-unavailable"
    try:
        await _refused_until_recovered(service, world, 0)
    finally:
        await running.__aexit__(None, None, None)


async def test_v16_engine_whose_keeper_fails_in_an_unforeseen_way_is_kept(
    world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V16: a mistake of ours while an engine is started again must not be a denial for good."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        pid = service.engine_pid
        assert pid is not None
        with monkeypatch.context() as broken:
            broken.setattr("agent.policy.opa.Scratch", None)
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: _true(agent.message("policy-engine") == "the engine cannot be kept: TypeError"))
        await _refused_until_recovered(service, world, pid)
    with monkeypatch.context() as broken:
        broken.setattr("agent.policy.opa.Scratch", None)
        running = agent.running()
        service = await running.__aenter__()
    try:
        await _refused_until_recovered(service, world, 0)
        assert service.findings == ()
    finally:
        await running.__aexit__(None, None, None)


async def test_v16_start_never_raises(world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """V16: an agent that cannot read its policy still repairs, narrows and records."""
    (agent.state / "policy").write_text("not a directory")
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == ["policy/state-corrupt"]
        assert agent.condition("policy-set") == "policy/state-corrupt"


# -- warn and shadow -----------------------------------------------------------------------------------------------


CLASH = 'deny contains "clash" if { input.object.kind == "Good"; to_number("x") > 1 }'


@pytest.mark.parametrize("mode", ["warn", "shadow"])
async def test_what_only_advises_cannot_refuse(world: PolicyWorld, agent: Agent, mode: Mode) -> None:
    """A bundle in warn or shadow that fails, hangs, dies or hogs: production goes on, and the failure is told."""
    enforced, other = denying("Bad"), archive("other", "1.0.0", CLASH)
    world.publish(enforced, other, chosen=[binding(enforced), binding(other, mode=mode)])
    async with agent.running() as service:
        await service.refresh(world.source)

        async def advice(kind: str) -> Sequence[Violation]:
            decision = await service.evaluator.decide(request(world.realm, thing(kind)))
            assert decision.allowed is (kind != "Bad")
            assert set(decision.bundles) == {"base", "other"}
            return decision.warnings if mode == "warn" else decision.shadow

        assert await advice("Fine") == ()
        for kind in ("Good", "Bad"):
            told = await advice(kind)
            assert [one.rule for one in told] == (["policy/not-evaluated"] if kind == "Good" else [])
        assert "policy/evaluation-failed" in (await advice("Good"))[0].reason
        assert service.active is not None
        pid = service.active.engines.advisory[0].pid
        assert pid is not None
        assert pid != service.engine_pid
        await stop(pid)
        begun = asyncio.get_running_loop().time()
        assert [one.rule for one in await advice("Fine")] == ["policy/not-evaluated"]
        assert asyncio.get_running_loop().time() - begun < 1.5
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: _is_empty(advice("Fine")))


async def _is_empty(answer: Awaitable[Sequence[Violation]]) -> bool:
    return not await answer


async def test_shadow_stands_beside_the_version_that_is_enforced(world: PolicyWorld, agent: Agent) -> None:
    """The next version of a bundle is watched where the present one decides; of more than three nobody knows which."""
    versions = [denying(kind, rule=f"base/{kind}", version=f"1.0.{n}") for n, kind in enumerate("ABCD")]
    chosen = [binding(data, name=f"b{n}", mode="shadow" if n else "enforce") for n, data in enumerate(versions)]
    world.publish(*versions[:3], chosen=chosen[:3])
    async with agent.running() as service:
        await service.refresh(world.source)
        decision = await service.evaluator.decide(request(world.realm, *map(thing, "ABC")))
        assert [one.rule for one in decision.violations] == ["base/A"]
        assert [one.rule for one in decision.shadow] == ["base/B", "base/C"]
        assert sorted(decision.bundles) == ["base", "base-1.0.1", "base-1.0.2"]
        world.publish(*versions, chosen=chosen)
        assert await refused(service, world.source) == "policy/roots-overlap"
    async with agent.running() as service:
        assert (await service.evaluator.decide(request(world.realm, thing("B")))).allowed


async def test_condition_of_an_engine_that_was_replaced_is_not_told(world: PolicyWorld, agent: Agent) -> None:
    """An engine that dies while the next set is switched to must not leave its condition red."""
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        assert service.active is not None
        old = service.active.engines.deciding
        world.publish(denying("Worse", version="1.0.1"))
        stopped = asyncio.Event()
        end = old.stop

        async def late() -> None:
            pid = old.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            await eventually(lambda: _true(old.pid != pid))
            stopped.set()
            await end()

        old.stop = late  # type: ignore[method-assign]
        await service.refresh(world.source)
        assert stopped.is_set()
        assert agent.condition("policy-engine") == ""


async def test_v8_what_was_accepted_with_more_capabilities_does_not_decide(
    world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V8: an upgraded agent that allows less finds it at start; a set it can decide with is accepted."""
    world.publish(archive("base", "1.0.0", 'deny contains upper("no") if input.object.kind == "Bad"'))
    async with agent.running() as service:
        await service.refresh(world.source)
    everything = capabilities.allowed()
    fewer = {**everything, "builtins": [name for name in everything["builtins"] if name != "upper"]}
    monkeypatch.setattr(capabilities, "allowed", lambda: fewer)
    async with agent.running() as service:
        assert [finding.code for finding in service.findings] == ["policy/does-not-compile"]
        assert agent.condition("policy-set") == "policy/does-not-compile"
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("Good")))
        assert caught.value.code == "policy/does-not-compile"
        world.publish(denying("Bad", version="1.0.1"))
        await service.refresh(world.source)
        assert await denied(service, world, "Bad")
        assert not await denied(service, world, "Good")
    async with agent.running() as service:
        assert service.findings == ()


async def test_bundle_that_the_engine_cannot_activate_is_named(opa_binary: Path) -> None:
    """OPA itself tries for ever, and would look like an engine that is slow to start."""
    process = OpaProcess(
        opa_binary,
        [read_bundle(archive("base", "1.0.0", "deny(x) := x"))],
        "package cellward_gate\n\nr := data.base.deny",
    )
    begun = asyncio.get_running_loop().time()
    with pytest.raises(CellwardError) as caught:
        await process.start()
    assert (caught.value.code, "data.base.deny" in caught.value.message) == ("policy/does-not-compile", True)
    assert asyncio.get_running_loop().time() - begun < 10


@pytest.mark.parametrize("replaced", [False, True])
async def test_full_disk_leaves_the_old_set(
    world: PolicyWorld, agent: Agent, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    """V16: whichever file of the new set cannot be made durable, it is not used, and after a restart one set is whole.

    ``replaced``: the write fails after it took place, as when only the directory cannot be synced any more.
    """
    written: list[Path] = []
    fails_at = 0

    def write(path: Path, data: bytes) -> None:
        written.append(path)
        if len(written) == fails_at:
            if replaced:
                write_atomic(path, data)
            raise OSError(28, "No space left on device")
        write_atomic(path, data)

    monkeypatch.setattr("agent.policy.store.write_atomic", write)
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        total = len(written)
        assert total > 6
        for turn in (1, total // 2, total - 1, total):
            world.publish(denying(f"Worse{turn}", version=f"1.0.{turn}"))
            written.clear()
            fails_at = turn
            assert await refused(service, world.source) == "policy/state-unwritable"
            assert (written[-1].name == "current.json") is (turn == total)
            assert await denied(service, world, "Bad")
            assert not await denied(service, world, f"Worse{turn}")
    fails_at = 0
    async with agent.running() as service:
        assert service.findings == ()
        assert await denied(service, world, f"Worse{total}") is replaced
        await service.refresh(world.source)
        assert await denied(service, world, f"Worse{total}")


async def test_starter_bundle_decides_on_the_real_engine(world: PolicyWorld, agent: Agent) -> None:
    """V9, V15: the starter bundle refuses unproved production once per cell, unless the signed binding tolerates it."""
    starter = starter_archive()
    world.publish(starter, chosen=[binding(starter, name="starter")])
    production = replace(FACTS, production=True)
    async with agent.running() as service:
        await service.refresh(world.source)
        question = request(world.realm, thing("Namespace", "a"), thing("Namespace", "b"), facts=production)
        decision = await service.evaluator.decide(question)
        assert [(item.rule, item.object) for item in decision.violations] == [
            ("starter/isolation/proof", "Cell/shop/front")
        ]
        tolerant = binding(starter, name="starter", parameters={"isolation": {"tolerate": ["unknown"]}})
        world.publish(starter, chosen=[tolerant])
        await service.refresh(world.source)
        assert (await service.evaluator.decide(question)).allowed


async def test_foreign_realm_and_foreign_root(world: PolicyWorld, agent: Agent) -> None:
    """Another installation's policy never verifies here, and a request of another realm is not decided."""
    other = PolicyWorld()
    other.publish(denying("Bad"))
    async with agent.running() as service:
        assert await refused(service, other.source) == "policy/unverified"
        world.publish(denying("Bad"))
        await service.refresh(world.source)
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(other.realm, thing("Good")))
        assert caught.value.code == "policy/foreign-realm"


async def test_thresholds_count_keys_not_signatures(world: PolicyWorld, agent: Agent) -> None:
    """M of n: one of two, also twice, is refused by the publisher, and by an agent whom such a set reaches anyhow."""
    second = Ed25519Signer.generate()
    world.publish(denying("Bad"))
    async with agent.running() as service:
        await service.refresh(world.source)
        world.rotate(targets=keys_of(world.policy_key, second, threshold=2))
        for signers in ((world.policy_key,), (world.policy_key, world.policy_key), (second, Ed25519Signer.generate())):
            with pytest.raises(CellwardError) as caught:
                world.make([denying("Worse", version="1.0.1")], keys=replace(world.keys, policy=signers))
            assert caught.value.code == "policy/unverified"
        both = replace(world.keys, policy=(world.policy_key, second))
        world.publish(denying("Worse", version="1.0.1"), keys=both)
        for kept in (0, 1):
            lacking = world.source.copy()
            targets = json.loads(lacking.metadata["targets", 2])
            targets["signatures"] = [targets["signatures"][kept]] * 2
            lacking.metadata["targets", 2] = json.dumps(targets).encode()
            snapshot = Metadata[Snapshot].from_bytes(lacking.metadata["snapshot", 2])
            snapshot.signed.meta["targets.json"] = MetaFile.from_data(2, lacking.metadata["targets", 2], ["sha256"])
            snapshot.sign(TufSigner(world.publisher_key))
            lacking.metadata["snapshot", 2] = snapshot.to_bytes()
            world.timestamp(lacking)
            assert await refused(service, lacking) == "policy/unverified"
        assert await denied(service, world, "Bad")
        world.timestamp()
        await service.refresh(world.source)
        assert await denied(service, world, "Worse")
