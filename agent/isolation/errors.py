"""Errors of the isolation room."""

from __future__ import annotations

from cellward.errors import Internal, define

INCOMPLETE = define(
    "isolation/incomplete-object",
    Internal,
    "An isolation object does not carry every field.",
    hint="This is a fault of Cellward: a field left out could be filled in by somebody else.",
)
