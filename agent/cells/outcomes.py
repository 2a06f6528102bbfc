"""How a step that was carried out is answered."""

from __future__ import annotations

from collections.abc import Callable

from agent.cells.machine import events as on

#: Makes the event of an outcome of what the driver sees then.
Outcome = Callable[[on.Sight], on.Event]
