"""Errors and findings about stamps."""

from __future__ import annotations

from cellward.errors import Conflict, Unavailable, define

PENDING = define(
    "stamps/pending",
    Unavailable,
    "The stamps of this cluster are about to be renewed, so nothing new is applied.",
    hint="Nothing to do: it takes some seconds. If it stays, look at the agent's own conditions.",
)
IMPOSTOR = define(
    "stamps/not-a-cell",
    Conflict,
    "A namespace says in its labels that it is a cell, and this agent never accepted it.",
    hint="No cell lets it in or talks to it. Take its cellward.dev labels off (kubectl label namespace NAME KEY-).",
)
NOT_ON_RECORD = define(
    "stamps/cell-not-on-record",
    Conflict,
    "A namespace is that of a cell accepted here, and this agent has no record of the cell any more.",
    hint="Leave the namespace as it is, and deliver the cell again (deploy or end it): until then it is not repaired.",
)
RENEWED = define(
    "stamps/renewed",
    Conflict,
    "The admission policies were away or are others than before, so somebody may have copied the stamps of cells.",
    hint="The stamps were renewed. Find out who changed the policies, and check namespaces created meanwhile.",
)
SLOW = define(
    "stamps/cell-left-behind",
    Unavailable,
    "Timed out waiting for a cell to get its new stamps.",
    hint="Other cells do not let it in until it is. The agent goes on trying; look at the namespace named.",
)
NOT_SAVED = define(
    "stamps/not-saved",
    Unavailable,
    "The stamps of this cluster cannot be made durable.",
    hint="Make room for the agent's state, or let it write its Secret in its own namespace.",
)
