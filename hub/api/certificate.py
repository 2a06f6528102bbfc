"""The API's TLS context, which follows the hub's own leaf: new connections see the new one, open ones go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ssl import SSLContext

import structlog

from cellward.identity import contexts
from cellward.runtime.health import HealthRegistry
from cellward.runtime.tasks import stopped_within
from hub.api.errors import NOT_SHOWN
from hub.authority.model import HubLeaf

#: Seconds between two looks at the leaf, and after a failure until the next try.
LOOK_SECONDS = 5.0
_log = structlog.get_logger()


class ApiCertificate:
    """One context; ``leaf`` gives the leaf in force, always the same object until there is a new one."""

    def __init__(self, leaf: Callable[[], HubLeaf], health: HealthRegistry) -> None:
        self._leaf = leaf
        self._health = health
        self._shown = leaf()
        self.context: SSLContext = contexts.server_context(self._shown.chain_pem, self._shown.key_pem)

    def refresh(self) -> None:
        """Show the leaf in force; one that cannot be loaded is tried again, the old one stays until then."""
        leaf = self._leaf()
        if leaf is not self._shown:
            contexts.load_leaf(self.context, leaf.chain_pem, leaf.key_pem)
            self._shown = leaf

    async def follow(self, stop: asyncio.Event, seconds: float = LOOK_SECONDS) -> None:
        """Refresh on a timer until ``stop``; a failure is a condition and is tried again."""
        while not stop.is_set():
            try:
                self.refresh()
                self._health.set("api-certificate", ok=True)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is shown and tried again
                _log.exception("api-certificate-failed", error=type(error).__name__)
                self._health.set("api-certificate", ok=False, code=NOT_SHOWN.code, message=NOT_SHOWN.title)
            await stopped_within(stop, seconds)
