"""Protocol versions: what this program speaks, and what two programs have in common."""

from __future__ import annotations

from cellward.wire.errors import NO_COMMON_VERSION

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
