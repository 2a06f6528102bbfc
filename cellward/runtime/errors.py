"""Errors of the runtime room."""

from __future__ import annotations

from cellward.errors import Internal, define

TASK_RETURNED = define(
    "runtime/task-returned",
    Internal,
    "A part of the process ended although nobody asked it to.",
    hint="This is a fault of Cellward; restart the process and report it with its log.",
)
TASK_STUCK = define(
    "runtime/task-stuck",
    Internal,
    "A part of the process did not stop in time.",
    hint="This is a fault of Cellward; the process ends anyway, report it with its log.",
)
