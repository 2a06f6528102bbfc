"""Errors of the isolation room."""

from __future__ import annotations

from cellward.errors import Conflict, Internal, Unavailable, define

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
NO_PROBER = define(
    "isolation/no-prober",
    Unavailable,
    "This agent has no prober of isolation yet, so the state stays unknown.",
    hint="Nothing to do; probes come with a later version.",
)
