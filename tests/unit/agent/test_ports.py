"""The policy refresher: what failed is tried again although nobody tells of it a second time."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from agent.audit.interfaces import Entry
from agent.ports import PolicyRefresher
from cellward.errors import CellwardError
from cellward.policy.errors import UNREACHABLE, UNVERIFIED
from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import SystemClock


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
        self.codes: list[str] = []

    async def record_or_count(self, entry: Entry) -> None:
        """Keep the code."""
        self.codes.append(entry.code)


def refresher(policy: Policy, recorder: Recorder) -> PolicyRefresher:
    """A refresher whose own interval is far longer than the test."""
    unused: Any = None
    retry = FullJitter(base=0.001, cap=0.01)
    return PolicyRefresher(cast(Any, policy), unused, cast(Any, recorder), SystemClock(), interval=3600.0, retry=retry)


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
        await asyncio.wait_for(policy.accepted.wait(), 5)
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
        await asyncio.wait_for(policy.accepted.wait(), 5)
        for _ in range(50):
            await asyncio.sleep(0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert policy.asked == 1
