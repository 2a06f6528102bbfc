"""Wakes whoever waits for a change. In this process at once; changes by others arrive as a change of everything.

Topics: ``desired:<cluster>``, ``link:<cluster>``, ``documents``, ``policy``, ``clusters``, ``audit``, ``events``. A
notification carries no content: whoever is woken reads the store, so a lost or doubled one costs a look and nothing
else. Invariant: what happens between two waits is one change per topic, so a slow subscriber never grows.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

#: Topic of policy metadata.
POLICY: Final = "policy"
#: Topic of signed documents.
DOCUMENTS: Final = "documents"
#: Topic of the clusters' bindings and locks.
CLUSTERS: Final = "clusters"
#: Topic of the audit log.
AUDIT: Final = "audit"
#: Topic of what the hub did and is not in the audit log yet.
EVENTS: Final = "events"


def desired_topic(cluster: str) -> str:
    """Return the topic of a cluster's desired items."""
    return f"desired:{cluster}"


def link_topic(cluster: str) -> str:
    """Return the topic of who holds a cluster's stream, and of commands to its agent."""
    return f"link:{cluster}"


class Subscription:
    """A subscriber's pending topics; made by ``ChangeBus.subscribe``."""

    def __init__(self) -> None:
        self._pending: set[str] = set()
        self._event = asyncio.Event()

    def add(self, topic: str) -> None:
        """Mark a topic as changed and wake the waiter."""
        self._pending.add(topic)
        self._event.set()

    async def wait(self) -> frozenset[str]:
        """Return the topics that changed since the last wait; waits until there is one."""
        await self._event.wait()
        self._event.clear()
        topics = frozenset(self._pending)
        self._pending.clear()
        return topics


class ChangeBus:
    """Publishes topics to subscriptions, all on one event loop."""

    def __init__(self) -> None:
        self._subscribers: defaultdict[str, set[Subscription]] = defaultdict(set)
        self._counts: Counter[str] = Counter()
        self._foreign = 0

    @asynccontextmanager
    async def subscribe(self, *topics: str) -> AsyncIterator[Subscription]:
        """Subscribe to topics until the context ends."""
        subscription = Subscription()
        for topic in topics:
            self._subscribers[topic].add(subscription)
        try:
            yield subscription
        finally:
            for topic in topics:
                self._subscribers[topic].discard(subscription)
                if not self._subscribers[topic]:
                    del self._subscribers[topic]

    def notify(self, topics: Iterable[str]) -> None:
        """Wake the subscribers of each topic; call after the change is durable."""
        for topic in topics:
            self._counts[topic] += 1
            for subscription in self._subscribers.get(topic, ()):
                subscription.add(topic)

    def stamp(self, *topics: str) -> tuple[int, ...]:
        """Return a value that differs once any of the topics, or anything by another process, has changed.

        For what is remembered in memory: equal stamps say that nothing it was read from has changed since.
        """
        return (self._foreign, *(self._counts[topic] for topic in topics))

    def notify_all(self) -> None:
        """Wake every subscriber with all of its topics: another process has changed something."""
        self._foreign += 1
        self.notify(tuple(self._subscribers))
