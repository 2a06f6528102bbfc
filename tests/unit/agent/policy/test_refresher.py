"""The policy refresher: what failed is tried again although nobody tells of it a second time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from agent.audit.interfaces import Entry
from agent.policy.refresher import PolicyRefresher
from cellward.errors import CellwardError
from cellward.policy.errors import BAD_ROOT, KEY_LIFTED, OLD_BASE, ROLLBACK, UNREACHABLE, UNVERIFIED
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import SystemClock
from tests.fakes.clock import ManualClock


class Policy:
    """Stands in for the policy service: fails as told, then has nothing newer."""

    def __init__(self, *failures: CellwardError) -> None:
        self.failures = list(failures)
        self.accepted = asyncio.Event()
        self.asked = 0

    async def refresh(self, source: object) -> None:
        """Fail with the next failure, or accept."""
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)
        self.accepted.set()


class Recorder:
    """Keeps what was recorded."""

    def __init__(self) -> None:
        self.decisions: list[str] = []
        self.codes: list[str] = []
        self.suppressed: list[str] = []

    async def record_or_count(self, entry: Entry) -> None:
        """Keep the code, and how many were left out."""
        self.decisions.append(entry.decision)
        self.codes.append(entry.code)
        self.suppressed.append((entry.details or {}).get("suppressed", ""))


def refresher(policy: Policy, recorder: Recorder) -> PolicyRefresher:
    """A refresher whose own interval is far longer than the test."""
    unused: Any = None
    retry = FullJitter(base=0.001, cap=0.01)
    return PolicyRefresher(
        cast(Any, policy), unused, cast(Any, recorder), SystemClock(), interval=3600.0, retry=retry, gap=0.001
    )


@pytest.mark.parametrize(
    "failure",
    [UNREACHABLE("the hub went away"), UNVERIFIED("somebody planted another snapshot")],
    ids=["unreachable", "refused"],
)
async def test_v8_one_notice_is_enough_although_the_first_tries_fail(failure: CellwardError) -> None:
    """V8: the hub tells of a version once; a failure of the moment must not keep policy back until the timer."""
    policy, recorder = Policy(failure, failure, failure), Recorder()
    task = asyncio.create_task((subject := refresher(policy, recorder)).run())
    try:
        subject.notice()
        await asyncio.wait_for(policy.accepted.wait(), 30)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert policy.asked == 4
    assert recorder.codes == ([] if failure.code == UNREACHABLE.code else [failure.code]), "recorded once"


async def test_without_a_failure_nothing_is_asked_twice() -> None:
    """One notice, one refresh: a fleet does not poll."""
    policy = Policy()
    subject = refresher(policy, Recorder())
    task = asyncio.create_task(subject.run())
    try:
        subject.notice()
        await asyncio.wait_for(policy.accepted.wait(), 30)
        for _ in range(50):
            await asyncio.sleep(0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert policy.asked == 1


async def test_v16_refresh_that_fails_in_an_unforeseen_way_is_tried_again() -> None:
    """V16: whatever the hub serves, or whatever the disk lacks, the task goes on: it is a root task of the agent."""
    policy = Policy(cast(Any, OSError(28, "no space left")), cast(Any, RecursionError()))
    task = asyncio.create_task((subject := refresher(policy, Recorder())).run())
    try:
        subject.notice()
        await asyncio.wait_for(policy.accepted.wait(), 30)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_hub_that_announces_all_the_time_is_asked_now_and_then() -> None:
    """A stolen hub must not make its agents fetch and verify without pause; one wake is kept for after the gap."""
    policy = Policy()
    subject = refresher(policy, Recorder())
    subject.gap = 0.2
    task = asyncio.create_task(subject.run())
    loop = asyncio.get_running_loop()
    try:
        end = loop.time() + 1.0
        version = 0
        while loop.time() < end:
            subject.notice(version := version + 1)
            await asyncio.sleep(0.002)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert 2 <= policy.asked <= 6


async def test_only_a_newer_version_begins_the_back_off_anew() -> None:
    """Telling of the same version again must not keep a failing refresh at its shortest pause."""
    policy, resets = Policy(), []
    subject = refresher(policy, Recorder())
    reset = subject.retry.reset
    subject.retry.reset = lambda: (resets.append(policy.asked), reset())[1]  # type: ignore[method-assign]
    task = asyncio.create_task(subject.run())
    try:
        for number, version in enumerate((7, 7, 3, 0, 8), start=1):
            subject.notice(version)
            while policy.asked < number:
                await asyncio.sleep(0.001)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert resets == [0, 4]


async def test_policy_that_brings_back_what_was_taken_away_is_a_finding() -> None:
    """Its signatures are real: somebody with security's keys signs from less than is in force, or lifts a bad key."""
    for refusal, decision in ((KEY_LIFTED, "finding"), (OLD_BASE, "finding"), (ROLLBACK, "deny")):
        recorder = Recorder()
        await refresher(Policy(refusal("x")), recorder).once()
        assert (recorder.codes, recorder.decisions) == ([refusal.code], [decision])


async def test_v13_refusals_are_recorded_once_a_minute_and_the_rest_is_counted() -> None:
    """V13: a hub can make each refusal another one, by version or by kind; none of it may fill the spool."""
    clock, recorder, unused = ManualClock(), Recorder(), cast(Any, None)
    policy = Policy()
    subject = PolicyRefresher(cast(Any, policy), unused, cast(Any, recorder), cast(Any, clock), interval=1.0)

    async def refuse(*errors: CellwardError) -> None:
        policy.failures = list(errors)
        for _ in errors:
            assert not await subject.once()

    await refuse(*(ROLLBACK(f"version {number}") for number in range(5)))
    assert recorder.codes == ["policy/rollback"]
    await refuse(UNVERIFIED("x"), ROLLBACK("y"), UNVERIFIED("z"))
    assert recorder.codes == ["policy/rollback"]
    clock.advance(61)
    await refuse(ROLLBACK("still the same"), UNVERIFIED("x"), BAD_ROOT("y"))
    assert recorder.codes == ["policy/rollback", "policy/unverified"]
    assert recorder.suppressed == ["", "8"]
    clock.advance(61)
    assert await subject.once()
    await refuse(UNVERIFIED("again after it was well"))
    assert recorder.codes[2:] == ["policy/unverified"]
    assert recorder.suppressed[2:] == ["1"]


def test_the_timer_is_drawn_so_that_a_fleet_does_not_come_in_step() -> None:
    """Never later than the interval: it bounds for how long a lie about versions lasts."""
    subject = refresher(Policy(), Recorder())
    pauses = [subject._pause() for _ in range(200)]
    assert max(pauses) <= subject.interval
    assert max(pauses) - min(pauses) > 0.1 * subject.interval
