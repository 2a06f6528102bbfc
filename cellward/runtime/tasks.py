"""Tasks others wait for: whose cancellation it is, and what becomes of a failure nobody waits for any more."""

from __future__ import annotations

import asyncio
from typing import Any


def is_being_cancelled() -> bool:
    """Whether somebody asked the current task to end; ask this where CancelledError was caught.

    Awaiting something that others cancelled raises CancelledError too, in a task that nobody cancelled. Passing it on
    would end that task as if in good order, and neither a task group nor its owner would notice.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def heard(task: asyncio.Future[Any]) -> None:
    """Take note of how a task ended: whoever waited may be gone, and its failure must not be reported as forgotten."""
    if not task.cancelled():
        task.exception()
