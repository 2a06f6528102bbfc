"""Which hub the installation names, and of which one the log is that this agent remembers.

Invariant: only local settings decide. No hub brings it about that its log, or the log's key, is forgotten (V13); and it
does not matter what became of the identity, which is a file of its own.
"""

from __future__ import annotations

from agent.spool.interfaces import Meta

#: Key in StateDb.meta: key ids of the authorities that were installed when the log was last used, space between them.
LOG_AUTHORITIES = "link.log-authorities"


class InstalledHub:
    """The hub authorities of the settings, and those that the remembered log belongs to.

    Args:
        meta: durable state.
        authorities: key ids of the hub authorities in the settings; none says nothing.
    """

    def __init__(self, meta: Meta, authorities: frozenset[str]) -> None:
        self._meta = meta
        self._authorities = authorities

    async def is_another(self) -> bool:
        """Whether the settings name none of the authorities that were named when the log was last used.

        Where that is not known, in the state of an earlier version, it is the same hub.
        """
        known = frozenset((await self._meta.get(LOG_AUTHORITIES) or "").split())
        return bool(known and self._authorities) and known.isdisjoint(self._authorities)

    async def remember(self) -> None:
        """Let the log belong to the authorities of the settings from now on; raises spool/full."""
        text = " ".join(sorted(self._authorities))
        if text and text != await self._meta.get(LOG_AUTHORITIES):
            await self._meta.set({LOG_AUTHORITIES: text})
