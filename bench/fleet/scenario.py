"""The phases of the fleet benchmark, in order: invite, join, idle, policy, fan-out, restarts, locks.

With the light load a floor runs beside the hub (``bench.floor``): it connects before the agents join, is idle while
they are, and has a round before each round of theirs, so that both saw the same machine.

Every number is a difference of CLOCK_MONOTONIC between the parent's action and the agent's own observation, so waiting
and polling of the parent are not in it.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.settings import IntervalSettings
from bench.admin import Admin
from bench.author import Author
from bench.build import load_binary
from bench.fleet.costs import Costs
from bench.fleet.crew import Crew, open_files, state_directory
from bench.fleet.events import now
from bench.fleet.floor import Floor
from bench.fleet.snapshot import metrics_batch
from bench.installation import Installation
from bench.numbers import Row, percentile
from bench.procfs import busy, usage
from tools.stack.process import GRACE_SECONDS
from tools.stack.steps import drive_async

_ENVIRONMENT = "development"
_MANIFEST = Path(__file__).resolve().parents[2] / "examples/boutique/cart.yaml"
#: Seconds any phase may take before its number is given as missing.
_PATIENCE = 180.0
_IDLE_SECONDS = 30.0
#: Seconds a round of the floor may take before its number is given as missing: it takes a fraction of one.
_FLOOR_PATIENCE = 20.0
_EMPTY_SECONDS = 10.0
#: Seconds for the wave of the phase before to ebb away: statuses, audit, metrics of agents that all began together.
_SETTLE = 6.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to do.

    Attributes:
        agents: simulated agents.
        workers: processes that hold them.
        rounds: rounds of fan-out and of policy after the first.
        audit: whether agents push their audit records.
        sample: where to write what the hub's main thread did, None for not at all.
        light: a load of little cost beside a floor, so that the hub is measured; False for the agent's own code.
    """

    agents: int = 1000
    workers: int = 2
    rounds: int = 5
    audit: bool = True
    sample: Path | None = None
    light: bool = True


@dataclass
class Fleet:
    """What the phases act on."""

    plan: Plan
    hub: Installation
    admin: Admin
    author: Author
    crew: Crew
    floor: Floor | None
    spent: Costs
    rows: list[Row] = field(default_factory=list)
    costs: dict[str, Mapping[str, float]] = field(default_factory=dict)

    @asynccontextmanager
    async def phase(self, name: str, told: str) -> AsyncIterator[None]:
        """Say what is done, and keep what it cost hub and load in CPU seconds."""
        sys.stderr.write(f"bench: {told}\n")
        before = (now(), usage(self.hub.pid).cpu, self.crew.cpu(), self.hub.pid, busy())
        yield
        # A hub that was restarted counts from its start.
        hub = usage(self.hub.pid).cpu - (before[1] if self.hub.pid == before[3] else 0.0)
        load, everything = self.crew.cpu() - before[2], busy() - before[4]
        self.costs[name] = {
            "seconds": round(now() - before[0], 3),
            "hub_cpu": round(hub, 3),
            "load_cpu": round(load, 3),
            # The hub before a restart is in here too; otherwise it is what the machine did for somebody else.
            "other_cpu": round(max(0.0, everything - hub - load), 1),
        }
        if self.plan.sample is not None:
            os.kill(self.hub.pid, signal.SIGUSR1)

    def row(self, row: Row) -> None:
        """Keep a number."""
        self.rows.append(row)

    async def settled(self, began: float, before: float) -> float:
        """Let a wave ebb away; return the hub's CPU seconds for each agent since, less what it spends idle."""
        await asyncio.sleep(_SETTLE)
        spent = usage(self.hub.pid).cpu - before - self.spent.idle * (now() - began)
        return spent / len(self.crew.names)


async def run(plan: Plan) -> tuple[list[Row], dict[str, Any]]:
    """Run all phases; return the rows and what else belongs in the JSON."""
    open_files(plan.agents * 12 + 1000)
    directory = Path(tempfile.mkdtemp(prefix="cellward-bench-"))
    states = Path(tempfile.mkdtemp(prefix="cellward-bench-", dir=state_directory()))
    names = [f"sim-{number:04d}" for number in range(plan.agents)]
    hub = Installation(directory, sample=plan.sample)
    load = await asyncio.to_thread(load_binary) if plan.light else None
    crew = Crew(names, states, plan.workers) if load is None else Crew(names, states, 1, [str(load)])
    floor = None
    if load is not None:
        (states / "floor").mkdir(mode=0o700)
        floor = Floor(plan.agents, states / "floor", load)
    try:
        hub.start()
        hub.set_up()
        # A hub is started far more often than its database is made, and what makes it stays in memory.
        await drive_async(hub.stop())
        hub.start()
        author = Author(hub.home, _ENVIRONMENT, directory / "bundles")
        async with Admin(hub.api_address, hub.ca_file, hub.token_file.read_text().strip()) as admin:
            fleet = Fleet(plan, hub, admin, author, crew, floor, Costs(plan.agents))
            await _phases(fleet)
    except BaseException:
        sys.stderr.write(f"bench: the hub's log ends with:\n{hub.log_tail()}\n")
        raise
    finally:
        await crew.stop()
        if floor is not None:
            await floor.stop()
        await drive_async(hub.stop())
        for place in (directory, states):
            shutil.rmtree(place, ignore_errors=True)
    return fleet.rows + (fleet.spent.rows() if floor is not None else []), {
        "costs": fleet.costs,
        "failures": dict(crew.failures.most_common(20)),
        "refused": sum(crew.refused.values()),
    }


async def _phases(fleet: Fleet) -> None:
    await _invite(fleet)
    await _join(fleet)
    await _idle(fleet)
    await _policy(fleet)
    await _fan_out(fleet)
    await _restart(fleet, signal.SIGTERM)
    await _restart(fleet, signal.SIGKILL)
    await _cut(fleet)


async def _invite(fleet: Fleet) -> None:
    crew, hub = fleet.crew, fleet.hub
    sys.stderr.write(f"bench: inviting {len(crew.names)} clusters and opening their agents' state\n")
    began, address = now(), ""
    facts = json.dumps({"facts": {"environments": [_ENVIRONMENT], "production": False, "region": "bench"}}).encode()
    for name in crew.names:
        await fleet.admin.post("/clusters", f'{{"name":"{name}"}}'.encode())
        token = await fleet.admin.post(f"/clusters/{name}/join-tokens", facts)
        address = token["enrolmentAddress"]
        directory = _state_of(crew, name)
        directory.mkdir(mode=0o700)
        (directory / "join-token").write_text(token["token"])
    fleet.row(Row("invite", "cluster created and token minted, each", (now() - began) * 1000 / len(crew.names), "ms"))
    snapshot = crew.directory / "metrics.binpb"
    snapshot.write_bytes(metrics_batch())
    task = {
        "mode": "hub",
        "metrics": str(snapshot),
        "metrics_every": str(IntervalSettings().metrics),
        "realm": fleet.author.realm,
        "root": str(fleet.author.root_file),
        "hub_ca": str(hub.ca_file),
        "enrolment": address,
        "environment": _ENVIRONMENT,
        "push_audit": "yes" if fleet.plan.audit else "no",
    }
    await crew.start(task)
    fleet.spent.base = usage(hub.pid).rss
    fleet.row(Row("hub_rss_before", "hub RSS before the first agent", usage(hub.pid).rss, "MB"))


def _state_of(crew: Crew, name: str) -> Path:
    """Return the state directory of an agent."""
    return crew.directory / name


async def _join(fleet: Fleet) -> None:
    crew = fleet.crew
    everyone = len(crew.names)
    if fleet.floor is not None:
        await fleet.floor.start()
        empty = usage(fleet.hub.pid).cpu
        await asyncio.sleep(_EMPTY_SECONDS)
        fleet.spent.idle_empty = (usage(fleet.hub.pid).cpu - empty) / _EMPTY_SECONDS
        fleet.spent.handshake = await fleet.floor.join(_PATIENCE)
        fleet.spent.floor_base = fleet.floor.base
    before = usage(fleet.hub.pid).cpu
    async with fleet.phase("join", f"{everyone} agents join at once"):
        began = await crew.go()
        await crew.until(lambda: len(crew.synced) == everyone, _PATIENCE)
        joined = since(began, crew.joined.values(), everyone)
        synced = since(began, crew.synced.values(), everyone)
    fleet.spent.join = (usage(fleet.hub.pid).cpu - before) / everyone
    fleet.row(Row("joined", "agents joined", len(crew.joined), "agents", everyone, "least"))
    fleet.row(Row("join_all", f"{everyone} joins at once, last certificate", max(joined), "s", 15))
    fleet.row(Row("join_p50", "    p50", percentile(joined, 0.5), "s"))
    fleet.row(Row("join_synced", "    last link open and resumed", max(synced), "s"))


async def _idle(fleet: Fleet) -> None:
    await asyncio.sleep(_SETTLE)
    async with fleet.phase("idle", f"{_IDLE_SECONDS:g} s idle"):
        before, floor = usage(fleet.hub.pid), usage(fleet.floor.pid) if fleet.floor is not None else None
        await asyncio.sleep(_IDLE_SECONDS)
        after = usage(fleet.hub.pid)
        fleet.spent.idle, fleet.spent.rss = (after.cpu - before.cpu) / _IDLE_SECONDS, after.rss
        if fleet.floor is not None and floor is not None:
            bare = usage(fleet.floor.pid)
            fleet.spent.idle_floor, fleet.spent.floor_rss = (bare.cpu - floor.cpu) / _IDLE_SECONDS, bare.rss
    fleet.row(Row("idle_rss", "hub RSS, all agents connected and idle", after.rss, "MB", 200))
    fleet.row(Row("idle_cpu", "hub CPU while idle, of one core", (after.cpu - before.cpu) / _IDLE_SECONDS * 100, "%"))


async def _policy(fleet: Fleet) -> None:
    crew, everyone = fleet.crew, len(fleet.crew.names)
    p50s: list[float] = []
    p99s: list[float] = []
    for number in range(fleet.plan.rounds + 1):
        await _floor_round(fleet)
        version, body = await asyncio.to_thread(fleet.author.publication)
        name, before = f"policy_{number}", usage(fleet.hub.pid).cpu
        async with fleet.phase(name, f"policy published, round {number} of {fleet.plan.rounds}"):
            began = now()
            await fleet.admin.post("/policy/publications", body)
            await crew.until(lambda version=version: len(crew.verified[version]) == everyone, _PATIENCE)  # type: ignore[misc]
            times = since(began, crew.verified[version].values(), everyone)
        if number == 0:
            fleet.row(Row("policy_first", "first policy set verified by all", max(times), "s", note="whole set"))
        else:
            p50s.append(percentile(times, 0.5))
            p99s.append(percentile(times, 0.99))
        cost = await fleet.settled(began, before)
        if number:
            fleet.spent.policies.append(cost)
    if p99s:
        p50, p99 = percentile(p50s, 0.5), percentile(p99s, 0.5)
        fleet.row(Row("policy_p50", "policy publish → verified, p50", p50, "s", note=_spread(p50s)))
        fleet.row(Row("policy_p99", "policy publish → verified, p99", p99, "s", 3, note=_spread(p99s)))


async def _fan_out(fleet: Fleet) -> None:
    crew, everyone = fleet.crew, len(fleet.crew.names)
    p50s: list[float] = []
    p99s: list[float] = []
    uploads: list[float] = []
    manifest = await asyncio.to_thread(_MANIFEST.read_text)
    for number in range(1, fleet.plan.rounds + 1):
        await _floor_round(fleet)
        digest, body = fleet.author.deployment(manifest)
        before = usage(fleet.hub.pid).cpu
        async with fleet.phase(f"fan_out_{number}", f"release uploaded, round {number} of {fleet.plan.rounds}"):
            began = now()
            await fleet.admin.post("/documents", body)
            uploads.append(now() - began)
            await crew.until(lambda digest=digest: len(crew.acked[digest]) == everyone, _PATIENCE)  # type: ignore[misc]
            times = since(began, crew.acked[digest].values(), everyone)
        p50s.append(percentile(times, 0.5))
        p99s.append(percentile(times, 0.99))
        fleet.spent.releases.append(await fleet.settled(began, before))
    if p99s:
        fleet.row(Row("upload", "    the upload itself answered", percentile(uploads, 0.5), "s", note=_spread(uploads)))
        p50, p99 = percentile(p50s, 0.5), percentile(p99s, 0.5)
        fleet.row(Row("fan_out_p50", "release change → acked, p50", p50, "s", note=_spread(p50s)))
        fleet.row(Row("fan_out_p99", "release change → acked, p99", p99, "s", 2, note=_spread(p99s)))


async def _floor_round(fleet: Fleet) -> None:
    if fleet.floor is not None:
        fleet.spent.rounds.append(await fleet.floor.round(_FLOOR_PATIENCE))


async def _restart(fleet: Fleet, number: signal.Signals) -> None:
    crew, everyone, hub = fleet.crew, len(fleet.crew.names), fleet.hub
    async with fleet.phase(f"restart_{number.name}", f"hub restarted after {number.name}"):
        began = now()
        await drive_async(hub.stop(number))
        down = now()
        hub.launch()

        def back() -> list[float]:
            return [at for at in crew.synced.values() if at > down]

        await crew.until(lambda: len(back()) == everyone, _PATIENCE)
        times = since(began, back(), everyone)
    key = number.name.lower()
    await asyncio.sleep(_SETTLE)
    # ``Child.stop`` kills after its grace: then this was no orderly restart, and the row must not look like one.
    ended = "KILLED after" if number is signal.SIGTERM and down - began >= GRACE_SECONDS else "stopped in"
    note = f"{ended} {down - began:.1f} s; {await fleet.admin.connected()} connected"
    fleet.row(Row(f"restart_{key}", f"hub restart by {number.name} → all resynced", max(times), "s", 10, note=note))
    fleet.row(Row(f"restart_{key}_p50", "    p50", percentile(times, 0.5), "s"))


async def _cut(fleet: Fleet) -> None:
    """Lock every agent, one after the other, and see how long each one's stream lives on; the last thing that is done.

    From the moment the lock is asked for, so what it costs to make it durable and to record it is in the number.
    """
    crew, everyone = fleet.crew, len(fleet.crew.names)
    asked: dict[str, float] = {}
    async with fleet.phase("cut", f"{everyone} agents locked one by one"):
        for name in crew.names:
            asked[name] = now()
            body = f'{{"kind":"cluster","subject":"{name}","reason":"benchmark"}}'
            await fleet.admin.post("/locks", body.encode())
        await crew.until(lambda: len(crew.cut) == everyone, _PATIENCE)
    times = sorted(crew.cut[name] - at for name, at in asked.items() if name in crew.cut)
    times = times if len(times) == everyone else [math.nan, *times]
    fleet.row(Row("lock_cut_p50", "lock → live stream ended, p50", percentile(times, 0.5), "s"))
    fleet.row(Row("lock_cut_p99", "lock → live stream ended, p99", percentile(times, 0.99), "s", 1))
    fleet.row(Row("lock_cut_max", "    the slowest", max(times), "s"))


def since(began: float, times: Iterable[float], everyone: int) -> list[float]:
    """Return seconds since ``began``; whoever is missing counts as not a number, and so does the whole maximum."""
    found = sorted(at - began for at in times)
    return found if len(found) == everyone else [math.nan, *found]


def _spread(values: Sequence[float]) -> str:
    return f"median of {len(values)} rounds, {min(values):.2f} to {max(values):.2f}"
