"""The recorder as other rooms see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RefusalText:
    """A refusal as every surface shows it (V15)."""

    code: str
    reason: str
    rule: str = ""
    object: str = ""
    next: str = ""


class RecorderPort(Protocol):
    """Writes the audit chain; ``agent.audit.recorder.Recorder`` is the real one."""

    async def record(  # noqa: PLR0913 - one record has this many fields
        self,
        action: str,
        object: str,  # noqa: A002 - the field's name in the record
        decision: str,
        *,
        code: str = "",
        rule: str = "",
        reason: str = "",
        correlation_id: str = "",
        details: Mapping[str, str] | None = None,
        revision: int = 0,
        actor: str = "",
    ) -> int:
        """Write one record and return its sequence number once it is durable (V13).

        Raises ``spool/full``: then the action must not be done. Actor defaults to the agent itself.
        """
        ...

    async def record_or_count(  # noqa: PLR0913 - as above
        self,
        action: str,
        object: str,  # noqa: A002 - the field's name in the record
        decision: str,
        *,
        code: str = "",
        rule: str = "",
        reason: str = "",
        correlation_id: str = "",
        details: Mapping[str, str] | None = None,
        revision: int = 0,
        actor: str = "",
    ) -> int | None:
        """Like ``record``, but never in the way: when full the loss is counted and None returned.

        For drift repair, narrowing and recovery only. The count enters the chain as a record when space is back.
        """
        ...
