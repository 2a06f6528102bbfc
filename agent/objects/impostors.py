"""Namespaces that say in their labels that they are a cell, and are none of ours (V10).

Nothing selects them: they lack the stamp, or carry one that no longer holds. So nothing is closed because of them and
nothing of them is touched; they are a red condition and a record until somebody takes the labels off.

One that has its very name and the stamp that holds is a cell whose record was lost with the agent's state. It is shown
as that: whoever deleted it would delete what runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from agent.audit.interfaces import Entry, RecorderPort
from agent.kube.interfaces import WatchEvent, WatchType
from agent.stamps.errors import IMPOSTOR, NOT_ON_RECORD
from cellward.cells import labels
from cellward.cells.stamps import Stamps
from cellward.runtime.health import HealthRegistry

_log = structlog.get_logger()

#: Condition of the agent.
CONDITION: Final = "cell-labels"
_SHOWN: Final = 3
_GUARD: Final = "validatingadmissionpolicybinding cellward-cell-labels"


def describe(name: str, found: dict[str, str]) -> str:
    """Say what a namespace claims and how to end that; pure."""
    ours = sorted(key for key in found if key.startswith(labels.PREFIX))
    claim = f"project {found[labels.PROJECT]}" if labels.PROJECT in found else ", ".join(ours)
    off = f"kubectl label namespace {name} {' '.join(f'{key}-' for key in ours)}"
    if labels.STAMP in found:
        # Nobody but the agent takes a stamp off, whoever copied it there.
        off = f"delete it, or: kubectl delete {_GUARD}; {off}; and install the chart again"
    return f"namespace {name} says that it is a cell ({claim}) and was never accepted; {off}"


def is_own_place(name: str, found: Mapping[str, str], stamps: Stamps) -> bool:
    """Whether a namespace has the name that its labels say and the stamp that holds: only the agent writes it; pure."""
    stamped = stamps.of_namespace(found.get(labels.PROJECT, ""))
    return (
        bool(stamped) and name == _own_name(found) and all(found.get(label) == said for label, said in stamped.items())
    )


def _own_name(found: Mapping[str, str]) -> str:
    return "--".join(found.get(label, "") for label in (labels.PROJECT, labels.CELL, labels.ENVIRONMENT))


class Impostors:
    """Follows all namespaces.

    Args:
        recorder: gets a finding for each that is new.
        health: gets the condition.
        owned: says of a name whether a cell of ours has it.
        stamps: those that prove something now, None while they do not.
    """

    def __init__(
        self,
        recorder: RecorderPort,
        health: HealthRegistry,
        owned: Callable[[str], bool],
        stamps: Callable[[], Stamps | None],
    ) -> None:
        self._recorder = recorder
        self._health = health
        self._owned = owned
        self._stamps = stamps
        self._labelled: dict[str, dict[str, str]] = {}
        self._known: dict[str, dict[str, str]] = {}
        self._synced = False

    async def handle(self, event: WatchEvent) -> None:
        """Take an event of the watch on namespaces."""
        match event.type:
            case WatchType.RESTARTED:
                self._labelled, self._synced = {}, False
            case WatchType.SYNCED:
                self._synced = True
            case WatchType.ADDED | WatchType.MODIFIED:
                self._note(event.object["metadata"])
            case WatchType.DELETED:
                self._labelled.pop(event.object["metadata"]["name"], None)
        await self.judge()

    def labels_of(self, name: str) -> dict[str, str] | None:
        """Return the labels of a namespace with labels of a cell, None while it was not seen."""
        return self._labelled.get(name)

    def _note(self, metadata: dict[str, Any]) -> None:
        found = metadata.get("labels") or {}
        if any(key.startswith(labels.PREFIX) for key in found):
            self._labelled[metadata["name"]] = found
        else:
            self._labelled.pop(metadata["name"], None)

    async def judge(self) -> None:
        """Set the condition, and record what is new; call it too when what is ours has changed."""
        if not self._synced:
            return
        stamps = self._stamps()
        found = {
            name: said
            for name, said in self._labelled.items()
            # What has its own name and a stamp is judged once stamps prove something: until then it may be a cell.
            if not self._owned(name) and (stamps is not None or labels.STAMP not in said or name != _own_name(said))
        }
        new = [name for name, said in found.items() if self._known.get(name) != said]
        self._known = found
        texts = {name: _judged(name, said, stamps) for name, said in sorted(found.items())}
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        codes = {code for code, _ in texts.values()}
        code = IMPOSTOR.code if IMPOSTOR.code in codes else min(codes, default="")
        told = [text for _, text in [*texts.values()][:_SHOWN]]
        self._health.set(CONDITION, ok=not found, code=code, message="; ".join(told) + more)
        for name in sorted(new):
            code, reason = texts[name]
            _log.error("namespace-is-no-cell", namespace=name, code=code, reason=reason)
            entry = Entry("fence.finding", f"Namespace/{name}", "finding", code=code, reason=reason)
            await self._recorder.record_or_count(entry)


def _judged(name: str, found: dict[str, str], stamps: Stamps | None) -> tuple[str, str]:
    """Return code and text."""
    if stamps is None or not is_own_place(name, found, stamps):
        return IMPOSTOR.code, describe(name, found)
    cell = f"{found[labels.PROJECT]}/{found[labels.CELL]} in {found[labels.ENVIRONMENT]}"
    return NOT_ON_RECORD.code, f"namespace {name} is that of {cell}, of which this agent has no record any more"
