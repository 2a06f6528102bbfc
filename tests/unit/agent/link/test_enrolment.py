"""How long the agent waits after a join that failed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agent.link.channels import ChannelHolder
from agent.link.enrolment import EnrolmentSettings, IdentityKeeper, _is_spent
from agent.link.errors import HUB_UNAVAILABLE
from agent.link.identity import IdentityStore, LinkIdentity
from cellward.errors import CellwardError
from cellward.runtime.backoff import FullJitter
from cellward.runtime.health import HealthRegistry
from cellward.wire.errors import REMOTE_DENIED, REMOTE_UNAVAILABLE
from hub.authority.errors import BAD_TOKEN
from tests.fakes.clock import ImpatientClock

REALM = "sha256:" + "a" * 64


class Highest(random.Random):
    """Draws the longest delay."""

    def uniform(self, a: float, b: float) -> float:
        """The upper end."""
        del a
        return b


def keeper_of(directory: Path, clock: ImpatientClock) -> IdentityKeeper:
    """A keeper whose token file is in the directory."""
    settings = EnrolmentSettings(REALM, "u-1", b"", "127.0.0.1:9", b"", directory / "token")
    return IdentityKeeper(
        settings,
        IdentityStore(directory),
        ChannelHolder(),
        clock,
        HealthRegistry(clock),
        backoff=FullJitter(0.5, 30.0, Highest()),
        patience=FullJitter(120.0, 600.0, Highest()),
    )


@pytest.mark.parametrize(
    ("cause", "waits"),
    [
        (HUB_UNAVAILABLE("away"), [0.5, 1.0, 2.0]),
        (REMOTE_UNAVAILABLE("too many attempts"), [0.5, 1.0, 2.0]),
        (REMOTE_DENIED("the cluster is locked"), [120.0, 240.0, 480.0]),
    ],
    ids=["away", "busy", "refused"],
)
async def test_v6_what_may_pass_is_asked_again_soon_and_a_refusal_after_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: CellwardError, waits: list[float]
) -> None:
    """Refusals count against all agents behind one address, so a fleet that asks on and on keeps newcomers out."""
    clock = ImpatientClock()
    keeper = _refused(monkeypatch, tmp_path, clock, cause)
    await keeper._go_on()
    waited = []
    for _ in waits:
        clock.waits.clear()
        await keeper._go_on()
        waited.append(sum(clock.waits))
    assert waited == waits


def _refused(
    monkeypatch: pytest.MonkeyPatch, directory: Path, clock: ImpatientClock, cause: CellwardError
) -> IdentityKeeper:
    """A keeper with a token that a hub answers with an error."""
    keeper = keeper_of(directory, clock)
    (directory / "token").write_text("cwj_old")

    async def refuse(_: str | None) -> LinkIdentity:
        raise cause

    monkeypatch.setattr(keeper, "_join", refuse)
    return keeper


@pytest.mark.parametrize(
    ("failure", "spent"),
    [
        (REMOTE_DENIED("no", remote_code="authority/bad-token"), True),
        (BAD_TOKEN("no"), True),
        (REMOTE_DENIED("no", remote_code="authority/locked"), False),
        (REMOTE_UNAVAILABLE("away"), False),
    ],
    ids=["unknown-code", "known-code", "locked", "away"],
)
def test_v6_only_a_token_that_is_no_good_any_more_is_put_away(failure: CellwardError, spent: bool) -> None:
    """A real agent knows none of the hub's codes: what it has is the code that travelled beside the refusal."""
    assert _is_spent(failure) is spent


async def test_v6_a_new_token_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever invited the cluster again does not wait for minutes, nor restarts anything."""
    clock = ImpatientClock()
    keeper = _refused(monkeypatch, tmp_path, clock, REMOTE_DENIED("no"))
    await keeper._go_on()
    (tmp_path / "token").write_text("cwj_new")
    await keeper._go_on()
    assert sum(clock.waits) == 0
