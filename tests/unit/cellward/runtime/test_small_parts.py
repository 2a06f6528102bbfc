"""Back-off, conditions, clocks and atomic files."""

from __future__ import annotations

import asyncio
import os
import random
from datetime import timedelta
from pathlib import Path

import pytest

from cellward.runtime.backoff import FullJitter
from cellward.runtime.clock import SystemClock, Timer
from cellward.runtime.files import write_atomic
from cellward.runtime.health import Condition, HealthRegistry
from tests.fakes.clock import ImpatientClock, ManualClock


def test_full_jitter_stays_below_a_doubling_ceiling_and_the_cap() -> None:
    """Every delay lies between zero and its ceiling, also after a thousand failures."""
    jitter = FullJitter(0.5, 4.0, random.Random(1))
    ceilings = [0.5, 1.0, 2.0, 4.0] + [4.0] * 1000
    assert all(0.0 <= jitter.next() <= ceiling for ceiling in ceilings)


def test_full_jitter_really_jitters_and_starts_over() -> None:
    """Two agents do not come back in step, and progress resets the ceiling."""
    one, two = FullJitter(8, 8, random.Random(1)), FullJitter(8, 8, random.Random(2))
    assert [one.next() for _ in range(5)] != [two.next() for _ in range(5)]
    jitter = FullJitter(0.001, 1000, random.Random(3))
    for _ in range(20):
        jitter.next()
    jitter.reset()
    assert jitter.next() <= 0.001


async def test_a_back_off_waits_for_what_it_draws_on_the_clock_it_is_given() -> None:
    """Waits grow as delays do, and no time of the machine passes."""
    drawn, waited = FullJitter(600, 4000, random.Random(1)), FullJitter(600, 4000, random.Random(1))
    for _ in range(3):
        clock = ImpatientClock()
        await waited.wait(clock)
        assert clock.waits == [drawn.next()]


def test_since_moves_only_when_ok_changes_and_listeners_hear_changes_only() -> None:
    """A condition that keeps failing for new reasons keeps the time it began to fail."""
    clock = ManualClock()
    heard: list[Condition] = []
    health = HealthRegistry(clock)
    health.on_change.append(heard.append)
    health.set("link", ok=False, code="link/a", message="a")
    began = clock.now()
    clock.advance(60)
    health.set("link", ok=False, code="link/b", message="b")
    health.set("link", ok=False, code="link/b", message="b")
    assert health.get() == (Condition("link", ok=False, code="link/b", message="b", since=began),)
    assert len(heard) == 2
    clock.advance(60)
    health.set("link", ok=True)
    assert health.get()[0].since == began + timedelta(seconds=120)


async def test_manual_clock_wakes_only_who_is_due() -> None:
    """Virtual time is the fake's whole purpose: nobody wakes early, and the system clock has the same shape."""
    clock = ManualClock()
    assert isinstance(clock, Timer)
    assert isinstance(SystemClock(), Timer)
    early, late = asyncio.ensure_future(clock.sleep(1)), asyncio.ensure_future(clock.sleep(5))
    await asyncio.sleep(0)
    clock.advance(2)
    await early
    assert not late.done()
    clock.advance(3)
    await late


def test_write_atomic_replaces_with_the_mode_asked_for(tmp_path: Path) -> None:
    """Content and permission bits are the new ones, and no temporary file stays."""
    path = tmp_path / "key.pem"
    path.write_bytes(b"old")
    path.chmod(0o644)
    old_mask = os.umask(0)
    try:
        write_atomic(path, b"new", 0o600)
    finally:
        os.umask(old_mask)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    """V16: a failure in the middle loses nothing of what was there before."""
    target = tmp_path / "directory"
    target.mkdir()
    (target / "kept").write_bytes(b"kept")
    with pytest.raises(OSError, match="directory"):
        write_atomic(target, b"new")
    assert (target / "kept").read_bytes() == b"kept"
    assert [entry.name for entry in tmp_path.iterdir()] == ["directory"]
