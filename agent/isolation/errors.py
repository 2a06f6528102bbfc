"""Errors of the isolation room."""

from __future__ import annotations

from cellward.errors import Conflict, Internal, Notice, Unavailable, define

INCOMPLETE = define(
    "isolation/incomplete-object",
    Internal,
    "An isolation object does not carry every field.",
    hint="This is a fault of Cellward: a field left out could be filled in by somebody else.",
)

FOREIGN_POLICY = define(
    "isolation/foreign-policy",
    Conflict,
    "A policy of the network plugin may be about a cell, so nobody can say that the cell is isolated.",
    hint="Let the policy select other namespaces (cells carry the label cellward.dev/cell), or delete it.",
)
NOT_ENFORCED = define(
    "isolation/not-enforced",
    Notice,
    "Packets got through that the cell's accepted isolation forbids.",
    hint="See the edges with `cellward isolation test`; install a network plugin that enforces NetworkPolicy.",
)
NOT_MEASURED = define(
    "isolation/not-measured",
    Unavailable,
    "The isolation of the cell is not measured now.",
    hint="See isolation_probe and prober_image in the agent's settings; what was measured a moment ago still counts.",
)
