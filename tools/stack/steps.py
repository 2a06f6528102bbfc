"""Waiting written once, driven by a blocking caller or by an event loop.

A step function is a generator that yields whenever it has nothing to do but wait and returns its result. Processes
are thus started in the caller's own thread, which matters: the kernel's parent-death signal follows the *thread* that
forked, so a worker thread of an executor would take the cluster with it when it ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]

_PAUSE_SECONDS = 0.05


def drive(steps: Steps[T]) -> T:
    """Run the steps in this thread, sleeping between them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        time.sleep(_PAUSE_SECONDS)


def drive_together(*all_steps: Steps[None]) -> None:
    """Run several steps in this thread, each going on while the others wait; the first failure ends all of them."""
    left = list(all_steps)
    try:
        while left:
            for steps in list(left):
                try:
                    next(steps)
                except StopIteration:
                    left.remove(steps)
            if left:
                time.sleep(_PAUSE_SECONDS)
    finally:
        for steps in left:
            steps.close()


async def drive_async(steps: Steps[T]) -> T:
    """Run the steps on the event loop, giving way between them."""
    try:
        while True:
            try:
                next(steps)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            await asyncio.sleep(_PAUSE_SECONDS)
    finally:
        steps.close()
