"""Errors of the link."""

from __future__ import annotations

from cellward.errors import Denied, Exhausted, Internal, InvalidInput, Refused, Unauthenticated, Unavailable, define

HUB_UNAVAILABLE = define(
    "link/hub-unavailable",
    Unavailable,
    "The hub cannot be reached.",
    hint="Nothing to do on the agent: it keeps enforcing and tries again; check the hub, the network and proxies.",
)
NO_TOKEN = define(
    "link/no-join-token",
    Unauthenticated,
    "The agent has no identity and no join token.",
    hint="Run `cellward clusters invite` and give the agent the token it prints.",
)
CERTIFICATE_EXPIRED = define(
    "link/certificate-expired",
    Unauthenticated,
    "The agent's certificate has expired.",
    hint="The agent asks the hub to recover it; if that is refused, invite the cluster again.",
)
OTHER_HUB = define(
    "link/other-hub",
    Unauthenticated,
    "The agent was given the authority of another hub than it is joined to.",
    hint="It joins that hub with the token of a new invitation, and has let go of the one before.",
)
BAD_IDENTITY = define(
    "link/bad-identity",
    Refused,
    "The hub issued a certificate that cannot be this agent's.",
    hint="Check that realm and hub belong together; report this if they do.",
)
IDENTITY_UNREADABLE = define(
    "link/identity-unreadable",
    InvalidInput,
    "The stored identity cannot be read.",
    hint="Invite the cluster again; the statement key and the state stay as they are.",
)
OUT_OF_ORDER = define(
    "link/hub-out-of-order",
    Refused,
    "A frame from the hub is out of order.",
    hint="The agent reconnects and resumes; report this if it happens again.",
)
PROTOCOL = define(
    "link/protocol",
    Refused,
    "The hub does not speak the protocol as agreed.",
    hint="Hub and agent may differ by one minor version; upgrade the older one.",
)
STREAM_REFUSED = define(
    "link/stream-refused",
    Denied,
    "The hub refused the link.",
    hint="See the hub's reason.",
)
ITEMS_DIFFER = define(
    "link/items-differ",
    Refused,
    "Hub and agent do not agree on the desired items.",
    hint="The agent changes nothing for what the hub no longer names; was the hub restored from a backup?",
)
ITEM_UNUSABLE = define(
    "link/item-unusable",
    Refused,
    "The hub delivers a desired item that this agent cannot use.",
    hint="Deploy it again under names the agent takes, or end it; everything else goes on, and what ran before stays.",
)
CONTENT_TOO_LARGE = define(
    "link/content-too-large",
    Exhausted,
    "The hub sent more content than the limit for its kind.",
    hint="Nothing was kept; check what was published.",
)
CONTENT_BROKEN = define(
    "link/content-broken",
    Refused,
    "The hub's answer for content contradicts itself.",
    hint="The agent asks again; report this if it happens again.",
)
COMMAND_REFUSED = define(
    "link/command-refused",
    Refused,
    "The command is not one this agent carries out.",
    hint="Commands are a closed list, each for one boot of one agent, until it expires, and run once.",
)
LOG_KEY_UNKNOWN = define(
    "link/log-key-unknown",
    Refused,
    "The hub has not shown the public key of its audit log.",
    hint="Audit records stay on the agent until it does; upgrade the hub.",
)
LOG_KEY_CHANGED = define(
    "link/log-key-changed",
    Refused,
    "The public key of the hub's audit log is not the one seen at first contact.",
    hint="Audit records stay on the agent. A log key does not change by itself: find out who changed it.",
)
AUDIT_NOT_TAKEN = define(
    "link/audit-not-taken",
    Refused,
    "The hub did not take a batch of audit records.",
    hint="Audit records stay on the agent; see the hub's code for why.",
)
COMMAND_FAILED = define(
    "link/command-failed",
    Internal,
    "The agent could not carry out a command of the hub.",
    hint="Look at the agent's log (`command-failed`), and report it.",
)
