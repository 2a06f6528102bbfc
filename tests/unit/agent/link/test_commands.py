"""Commands: closed list, this boot, unexpired, once (V2)."""

from __future__ import annotations

import pytest

from agent.link.commands import MAX_LIFE_SECONDS, CommandGate
from agent.link.interfaces import CommandKind
from cellward.errors import CellwardError
from cellward.wire.v1 import link_pb2
from tests.fakes.clock import ManualClock


def command(clock: ManualClock, **changes: object) -> link_pb2.Command:
    """A command that would be taken, with changes."""
    fields: dict[str, object] = {
        "id": "c1",
        "kind": link_pb2.COMMAND_KIND_DIAGNOSE,
        "boot_id": "boot-1",
        "expires_unix": int(clock.now().timestamp()) + 60,
        "subject": "policy",
    }
    return link_pb2.Command(**{**fields, **changes})  # type: ignore[arg-type]


def test_v2_a_good_command_is_taken_once() -> None:
    """The same id is refused the second time, on whatever stream it comes."""
    clock = ManualClock()
    gate = CommandGate("boot-1")
    assert gate.admit(command(clock), clock.now()).kind is CommandKind.DIAGNOSE
    with pytest.raises(CellwardError, match="run before"):
        gate.admit(command(clock), clock.now())


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": link_pb2.COMMAND_KIND_UNSPECIFIED},
        {"kind": 99},
        {"boot_id": "boot-0"},
        {"boot_id": ""},
        {"expires_unix": 0},
        {"expires_unix": int(ManualClock().now().timestamp())},
        {"expires_unix": int(ManualClock().now().timestamp()) + MAX_LIFE_SECONDS + 1},
        {"id": ""},
        {"id": "x" * 129},
        {"subject": "a b"},
        {"subject": ""},
        {"kind": link_pb2.COMMAND_KIND_RENEW, "subject": "anything"},
        {"kind": link_pb2.COMMAND_KIND_PROBE, "subject": "shop/cart"},
        {"kind": link_pb2.COMMAND_KIND_PROBE, "subject": "shop/../dev"},
    ],
)
def test_v2_anything_else_is_refused(changes: dict[str, object]) -> None:
    """Unknown kind, other boot, expired, living too long, no id, a subject that does not fit: not run."""
    clock = ManualClock()
    with pytest.raises(CellwardError) as caught:
        CommandGate("boot-1").admit(command(clock, **changes), clock.now())
    assert caught.value.code == "link/command-refused"


def test_v2_a_command_cannot_be_replayed_by_letting_the_gate_forget() -> None:
    """An id is remembered until the command has expired; after that its expiry refuses it."""
    clock = ManualClock()
    gate = CommandGate("boot-1")
    message = command(clock)
    gate.admit(message, clock.now())
    clock.advance(59)
    gate.admit(command(clock, id="c2"), clock.now())
    with pytest.raises(CellwardError, match="run before"):
        gate.admit(message, clock.now())
    clock.advance(2)
    with pytest.raises(CellwardError, match="expired"):
        gate.admit(message, clock.now())
