"""Several engines as one: the deciding one is strict, the others only advise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from agent.policy.engine import Engine
from agent.policy.engines import Engines
from cellward.errors import CellwardError
from cellward.policy.errors import ENGINE_UNAVAILABLE
from tests.fakes.refusals import refused


@dataclass
class Started:
    """An engine that starts, or does not."""

    fails: Callable[[], CellwardError] | None = None
    done: list[str] = field(default_factory=list)

    async def start(self) -> None:
        """Start."""
        if self.fails is not None:
            raise self.fails()
        self.done.append("start")

    def start_watching(self) -> None:
        """Be tried again later."""
        self.done.append("watch")

    async def stop(self) -> None:
        """Stop."""
        self.done.append("stop")


def _engine(started: Started) -> Engine:
    return cast("Engine", started)


def _broken() -> CellwardError:
    return ENGINE_UNAVAILABLE("no")


async def test_an_advisory_engine_that_does_not_start_keeps_no_set_out() -> None:
    """V8: with a set comes what it revokes; a bundle that is only watched must not hold that back."""
    deciding, good, bad = Started(), Started(), Started(_broken)
    await Engines(_engine(deciding), [_engine(bad), _engine(good)]).start()
    assert (deciding.done, good.done, bad.done) == (["start"], ["start"], ["watch"])


async def test_a_deciding_engine_that_does_not_start_is_told_and_nothing_is_left() -> None:
    """The set is not in force then; the old one decides."""
    advisory = Started()
    with refused("policy/engine-unavailable"):
        await Engines(_engine(Started(_broken)), [_engine(advisory)]).start()
    assert advisory.done == []
