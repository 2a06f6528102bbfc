"""Series of the cells' own programs, as agents read them and hubs serve them; pure.

Invariants:

- A series never passes for one of Cellward's own: names that begin with ``cellward_`` are not taken.
- Labels that say whose a series is come from the agent and the hub alone; what a program says under such a name is kept
  under ``exported_…``, as Prometheus does it (``honor_labels: false``).
- Everything is bounded, on both sides: a program, and an agent, may say anything (V16).

Types are not kept: two cells may use one name for two types, and one family has one type on a page of metrics. Queries
work on series, so each is served as ``untyped``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

#: Labels that are ours.
OWN_LABELS: Final = frozenset({"cluster", "project", "cell", "environment", "component", "pod"})
#: What names of our own begin with.
OWN_PREFIX: Final = "cellward_"
EXPORTED: Final = "exported_"
#: Most series of one pod, of one cell and of one cluster.
POD_SERIES, CELL_SERIES, CLUSTER_SERIES = 500, 1_000, 5_000
#: Most labels of a program's own for one series, and characters of a name and of a label's value.
MOST_LABELS, MOST_NAME, MOST_VALUE = 10, 200, 256

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")


def is_name(name: str) -> bool:
    """Whether a program of a cell may give a series this name (Prometheus data model, without UTF-8 names)."""
    return len(name) <= MOST_NAME and _NAME.match(name) is not None and not name.startswith(OWN_PREFIX)


def own_labels(labels: Mapping[str, str]) -> dict[str, str] | None:
    """Return a program's labels without any of ours; None where they cannot be taken."""
    if len(labels) > MOST_LABELS:
        return None
    found: dict[str, str] = {}
    for label, value in labels.items():
        name = EXPORTED + label if label in OWN_LABELS else label
        if name in found or (name != label and name in labels):
            return None
        if len(value) > MOST_VALUE or len(name) > MOST_NAME or name.startswith("__") or not _LABEL.match(name):
            return None
        found[name] = value
    return found
