"""What every Evaluator promises, asked of real OPA and of the fake that other tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.policy.service import PolicyService
from cellward.errors import CellwardError
from cellward.policy.model import Evaluator
from cellward.runtime.health import HealthRegistry
from tests.fakes.clock import ManualClock
from tests.fakes.evaluator import FakeEvaluator
from tests.fakes.policy import FACTS, PolicyWorld, denying, now, request, thing

WORLD = PolicyWorld()
WORLD.publish(denying("Bad"))
OTHER_REALM = "sha256:" + "9" * 64


@pytest.fixture(params=["fake", pytest.param("opa", marks=pytest.mark.real)])
async def evaluator(request: pytest.FixtureRequest, tmp_path: Path, opa_binary: Path) -> AsyncIterator[Evaluator]:
    """Return an evaluator that denies objects of kind Bad by rule base/no."""
    if request.param == "fake":
        yield FakeEvaluator({"Bad": ("base/no", "no Bad")}, realm=WORLD.realm)
        return
    service = PolicyService(
        state_dir=tmp_path,
        root=WORLD.root,
        realm=WORLD.realm,
        facts=FACTS,
        opa_binary=opa_binary,
        clock=ManualClock(now()),
        health=HealthRegistry(),
    )
    await service.start()
    await service.refresh(WORLD.source)
    yield service.evaluator
    await service.close()


async def test_allows_what_no_rule_denies(evaluator: Evaluator) -> None:
    """An allowed release has no violations and names the bundles that were asked."""
    decision = await evaluator.decide(request(WORLD.realm, thing("Good"), thing("Other")))
    assert decision.allowed
    assert decision.violations == ()
    assert len(decision.bundles) == 1


async def test_names_rule_object_reason_and_next_step_v15(evaluator: Evaluator) -> None:
    """V15: each refused object is named with its rule, reason and remediation, the others are not."""
    decision = await evaluator.decide(request(WORLD.realm, thing("Good", "a"), thing("Bad", "b"), thing("Bad", "c")))
    assert not decision.allowed
    assert [(found.rule, found.object, found.reason, found.remediation) for found in decision.violations] == [
        ("base/no", "Bad/shop--front--dev/b", "no Bad", "leave it out"),
        ("base/no", "Bad/shop--front--dev/c", "no Bad", "leave it out"),
    ]


async def test_equal_questions_have_equal_ids(evaluator: Evaluator) -> None:
    """A decision replays exactly: same input, same bundles, same answer and id."""
    question = request(WORLD.realm, thing("Bad"))
    first, second = await evaluator.decide(question), await evaluator.decide(question)
    assert first == second
    other = await evaluator.decide(request(WORLD.realm, thing("Bad", "y")))
    assert other.decision_id != first.decision_id


async def test_a_release_without_objects_is_decided(evaluator: Evaluator) -> None:
    """Nothing to apply is still a question with an answer."""
    assert (await evaluator.decide(request(WORLD.realm))).allowed


async def test_refuses_an_environment_the_cluster_does_not_host(evaluator: Evaluator) -> None:
    """Facts, not claims: the environment must be the cluster's own."""
    decision = await evaluator.decide(request(WORLD.realm, thing("Good"), environment="prod"))
    assert [found.rule for found in decision.violations] == ["policy/environment-not-hosted"]


async def test_refuses_another_realm(evaluator: Evaluator) -> None:
    """A request of another installation is not decided."""
    with pytest.raises(CellwardError) as caught:
        await evaluator.decide(request(OTHER_REALM, thing("Good")))
    assert caught.value.code == "policy/foreign-realm"
