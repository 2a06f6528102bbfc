"""Messages of the agent: what the hub cannot know is said by the agent itself."""

from __future__ import annotations

from agent.audit.interfaces import RefusalText
from agent.kube.errors import KUBE_UNAVAILABLE
from agent.link.messages import condition_to_wire, refusal_to_wire
from cellward.runtime.health import Condition
from cellward.wire.v1 import link_pb2
from hub.api.resources import convert
from hub.clusters.rows import status_report


def test_v15_a_red_condition_carries_its_next_step_to_the_api() -> None:
    """V15: the hint travels with the condition, because the hub does not know every code of an agent."""
    red = Condition("kubernetes", ok=False, code="agent-only/code", message="gone")
    assert condition_to_wire(red).hint == ""
    message = condition_to_wire(Condition("kubernetes", ok=False, code=KUBE_UNAVAILABLE.code, message="gone"))
    assert message.hint == KUBE_UNAVAILABLE.hint
    kept = status_report(link_pb2.AgentStatus(conditions=[message]))["conditions"][0]
    assert convert.condition("eu-1", kept | {"code": "agent-only/code"}).hint == KUBE_UNAVAILABLE.hint


def test_a_good_condition_has_no_next_step() -> None:
    """Nothing is advised where nothing is wrong."""
    assert condition_to_wire(Condition("kubernetes", ok=True, code=KUBE_UNAVAILABLE.code)).hint == ""


def test_v16_no_text_whatever_it_came_from_keeps_a_message_from_being_made() -> None:
    """V16: protobuf refuses a lone surrogate, and one refused message would end every later session of the link."""
    odd = "x\ud800\x1b[31m\x00 " + "y" * 10_000
    message = refusal_to_wire(RefusalText(odd, odd, odd, odd, odd))
    assert message.reason.startswith("x? [31m  yyy")
    assert condition_to_wire(Condition("kubernetes", ok=False, code="a/b", message=odd)).message == message.reason
    assert len(message.SerializeToString()) < 25_000
