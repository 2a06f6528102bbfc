"""What the engine tells the rest of the agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agent.link.interfaces import CellReport, ReceiptFacts
from cellward.wire.codec import DesiredItem

#: Takes the newest state of a cell; must not raise for an unreachable hub.
OnStatus = Callable[[CellReport], Awaitable[None]]
#: Takes the outcome of a desired item; must not raise for an unreachable hub.
OnReceipt = Callable[[ReceiptFacts], Awaitable[None]]
#: Called with an item when it is accepted for good, before anything of it is done.
Accepted = Callable[[DesiredItem], None]
