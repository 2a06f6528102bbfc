"""Errors of the agent's side of the audit log."""

from __future__ import annotations

from cellward.errors import Refused, define

LOG_REFUSED = define(
    "link/log-refused",
    Refused,
    "Verification failed: the hub's audit log does not prove what it acknowledged.",
    hint="Audit records stay on the agent; compare the hub's log with an earlier export.",
)
