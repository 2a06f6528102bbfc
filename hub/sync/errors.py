"""Error codes of the listeners and of the link."""

from __future__ import annotations

from cellward.errors import (
    Conflict,
    Denied,
    Exhausted,
    Internal,
    InvalidInput,
    Refused,
    Unauthenticated,
    Unavailable,
    define,
)

UNKNOWN_METHOD = define(
    "link/unknown-method",
    Denied,
    "The hub offers no such call here.",
    hint="Only the calls of this port's services are let through; use an agent of a matching version.",
)
WEAK_TRANSPORT = define(
    "link/weak-transport",
    Unauthenticated,
    "The connection is not TLS 1.3.",
    hint="Nothing older than TLS 1.3 is accepted; look for a proxy that ends TLS on the way.",
)
RESUMED_SESSION = define(
    "link/resumed-session",
    Unauthenticated,
    "The connection resumes an earlier TLS session.",
    hint="A resumed session does not show its certificate again; open a connection with a full handshake.",
)
NO_CERTIFICATE = define(
    "link/no-certificate",
    Unauthenticated,
    "The connection shows no client certificate.",
    hint="Join first; the link is for agents with a certificate.",
)
HELLO_REFUSED = define(
    "link/hello-refused",
    Refused,
    "The agent's Hello does not match what its certificate is bound to.",
    hint="Compare the agent's realm, uid and statement key with those of the cluster on the hub.",
)
HELLO_EXPECTED = define(
    "link/hello-expected",
    InvalidInput,
    "The first frame of a stream is Hello, in time, and there is only one.",
    hint="Open a new stream and send Hello first.",
)
TOO_MANY_HELLOS = define(
    "link/too-many-hellos",
    Exhausted,
    "The agent begins streams more often than the hub takes them.",
    hint="The agent comes again by itself, ever more rarely; look for why its streams end, or for a copy of it.",
)
OUT_OF_ORDER = define(
    "link/out-of-order",
    InvalidInput,
    "A frame has the wrong stream id or number.",
    hint="Open a new stream; frames are numbered from 1 without gaps.",
)
UNEXPECTED_FRAME = define(
    "link/unexpected-frame",
    InvalidInput,
    "A frame has no body that is known here.",
    hint="Use an agent that speaks the protocol version the hub chose.",
)
TWO_LIVE_STREAMS = define(
    "link/two-live-streams",
    Denied,
    "Two agents use one identity at the same time, so both were locked.",
    hint="Find out which one is the copy; docs/how-to/runbooks/cloned-agent.md says how to go on.",
)
ANOTHER_CLUSTER = define(
    "link/another-cluster",
    Denied,
    "The agent runs in another Kubernetes cluster than the one it joined from, so it was locked.",
    hint="An agent's state is never copied to another cluster; docs/how-to/runbooks/cloned-agent.md says how to go on.",
)
ANOTHER_PLATFORM_CA = define(
    "link/another-platform-ca",
    Refused,
    "The authority of the cluster's API server has changed.",
    hint="Nothing was locked. If nobody renewed it there, find out whether the agent still talks to its own cluster.",
)
SILENT = define(
    "link/silent",
    Unavailable,
    "Timed out waiting for the other end.",
    hint="The agent comes again by itself; look at its network when this repeats.",
)
SLOW_READER = define(
    "link/slow-reader",
    Unavailable,
    "The agent reads too slowly.",
    hint="The agent reconnects by itself; look at its load when this repeats.",
)
TOO_MANY_CALLS = define(
    "link/too-many-calls",
    Exhausted,
    "The cluster has too many calls open at once.",
    hint="One agent needs fewer than ten; look for a second installation with the same identity.",
)
SUPERSEDED = define(
    "link/superseded",
    Conflict,
    "A newer stream of the same agent has taken the place of this one.",
    hint="Nothing to do when an agent has just reconnected; if it repeats, look for a copy of it.",
)
NOT_CONNECTED = define(
    "link/not-connected",
    Unavailable,
    "The cluster has no open link, or does not take more commands now.",
    hint="Commands go to connected agents only; try again when it is back.",
)
BAD_OFFSET = define(
    "link/bad-offset",
    InvalidInput,
    "The offset asked for lies behind the end of the content.",
    hint="Ask again from offset 0.",
)
CANNOT_LISTEN = define(
    "link/cannot-listen",
    Unavailable,
    "The hub cannot listen on an address of its settings.",
    hint="Look for another process on that port, for example a second hub, and for an address this machine lacks.",
)
UNEXPECTED = define(
    "link/unexpected",
    Internal,
    "Internal error of the hub while it handled the call.",
    hint="The hub's log has the cause under the same time; please report it.",
)
