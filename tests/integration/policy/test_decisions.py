"""What the real engine decides: without a set, of another realm, by no binding, in warn and shadow."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Sequence
from dataclasses import replace

import pytest

from cellward.documents.facts import Selector
from cellward.errors import CellwardError
from cellward.policy.model import Mode, Violation
from tests.fakes.policy import (
    FACTS,
    MemorySource,
    PolicyWorld,
    archive,
    binding,
    denying,
    request,
    starter_archive,
    thing,
)
from tests.integration.policy.agent import Agent, eventually, refused, stop

pytestmark = pytest.mark.real


async def test_without_a_set_nothing_is_allowed_v8(world: PolicyWorld, agent: Agent) -> None:
    """V8: no verified set, no decision, with its own code."""
    async with agent.running() as service:
        with pytest.raises(CellwardError) as caught:
            await service.evaluator.decide(request(world.realm, thing("ConfigMap")))
        assert caught.value.code == "policy/no-verified-set"
        assert agent.condition("policy-set") == "policy/no-verified-set"
        assert await refused(service, MemorySource()) == "policy/nothing-published"


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
