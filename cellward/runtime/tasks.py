"""Telling one's own cancellation from that of something one waits for."""

from __future__ import annotations

import asyncio


def is_being_cancelled() -> bool:
    """Whether somebody asked the current task to end; ask this where CancelledError was caught.

    Awaiting something that others cancelled raises CancelledError too, in a task that nobody cancelled. Passing it on
    would end that task as if in good order, and neither a task group nor its owner would notice.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
