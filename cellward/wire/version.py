"""Protocol versions: what this program speaks, and what two programs have in common."""

from __future__ import annotations

from cellward.version import VERSION, release_of
from cellward.wire.errors import NO_COMMON_VERSION, VERSION_SKEW

#: Lowest and highest protocol version spoken.
PROTOCOL_MIN = 1
PROTOCOL_MAX = 1
#: The agent takes documents that travel with their item (``DesiredItem.documents``).
CARRIED_DOCUMENTS = "carried-documents"
#: The agent takes policy files that travel with their notice (``PolicyNotice.files``).
CARRIED_POLICY = "carried-policy"
#: The agent takes the mark that follows items in the last of them (``DesiredItem.mark``).
CARRIED_MARK = "carried-mark"
#: Optional features of the wire this program knows.
FEATURES: tuple[str, ...] = (CARRIED_DOCUMENTS, CARRIED_POLICY, CARRIED_MARK)


def negotiate(theirs_min: int, theirs_max: int, *, ours_min: int = PROTOCOL_MIN, ours_max: int = PROTOCOL_MAX) -> int:
    """Highest version both speak; raises wire/no-common-version, also for a range that is empty or starts at 0."""
    if not 1 <= theirs_min <= theirs_max:
        raise NO_COMMON_VERSION(f"the peer's range of versions {theirs_min} to {theirs_max} is empty")
    chosen = min(theirs_max, ours_max)
    if chosen < max(theirs_min, ours_min):
        raise NO_COMMON_VERSION(
            f"the peer speaks versions {theirs_min} to {theirs_max}, this side {ours_min} to {ours_max}"
        )
    return chosen


def check_skew(theirs: str, ours: str = VERSION) -> None:
    """Refuse a peer whose version is more than one minor version away, either way; raises wire/version-skew.

    What nobody tested together must not half work. A peer that says no version, or none that can be read, is judged by
    its protocol versions alone. Refused is the link and nothing else: an agent without one goes on enforcing (V1).
    """
    peer, own = release_of(theirs), release_of(ours)
    if peer is not None and own is not None and not peer.near(own):
        older, hint = ("agent", AGENT_FIRST) if peer < own else ("hub", HUB_FIRST)
        raise VERSION_SKEW(f"the agent is of version {peer} and the hub of {own}; the {older} is too old", hint=hint)


AGENT_FIRST = "Upgrade the agent; `cellward clusters upgrade` prints the command. It enforces what it has meanwhile."
HUB_FIRST = "Upgrade the hub, then the agents; `cellward clusters upgrade` prints the commands."
