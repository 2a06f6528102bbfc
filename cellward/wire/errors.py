"""Error codes about messages themselves, shared by both ends."""

from __future__ import annotations

from cellward.errors import Denied, InvalidInput, Refused, TooNew, Unavailable, define

BAD_MESSAGE = define(
    "wire/bad-message",
    InvalidInput,
    "A message holds a value outside its bounds.",
    hint="Upgrade the older side; if both are equal, this is a bug worth reporting.",
)
NO_COMMON_VERSION = define(
    "wire/no-common-version",
    TooNew,
    "Hub and agent share no protocol version.",
    hint="Upgrade the older side; one minor version of skew is supported each way.",
)
VERSION_SKEW = define(
    "wire/version-skew",
    TooNew,
    "Hub and agent are more than one minor version apart.",
    hint="Upgrade the older side; `cellward clusters upgrade` prints the commands, in order.",
)
REMOTE_REFUSED = define(
    "wire/remote-refused",
    Refused,
    "The other side refused the call with a code this version does not know.",
    hint="Read the message and the code it names; upgrade the older side to have it explained.",
)
REMOTE_DENIED = define(
    "wire/remote-denied",
    Denied,
    "Not authorized by the other side.",
    hint="Look at the other side's log: the certificate may have expired, or its cluster be locked.",
)
REMOTE_UNAVAILABLE = define(
    "wire/remote-unavailable",
    Unavailable,
    "The other side cannot be reached or cannot answer now.",
    hint="The call is tried again with back-off; check address, network and certificates when it persists.",
)
