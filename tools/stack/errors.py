"""What can go wrong while a control plane is started or used."""

from __future__ import annotations

from cellward.errors import Internal, Unavailable, define

PART_DIED = define(
    "stack/part-died",
    Unavailable,
    "A process of the control plane ended although it should run.",
    hint="Read the log named in the message; a clash of ports goes away on the next try.",
)
NOT_READY = define(
    "stack/not-ready",
    Unavailable,
    "A process of the control plane did not become ready in time.",
    hint="Read the log named in the message; a very busy machine may need another try.",
)
API_REFUSED = define("stack/api-refused", Internal, "The API server refused a request that sets up the control plane.")
API_UNREACHABLE = define("stack/api-unreachable", Unavailable, "The API server does not answer.")
UNKNOWN_KIND = define(
    "stack/unknown-kind",
    Internal,
    "A file of the chart has a kind the installer does not know.",
    hint="Add it to the table in tools/stack/api.py.",
)
NO_NODE = define(
    "stack/no-node",
    Unavailable,
    "A real node cannot run here.",
    hint="Run as root on Debian or Ubuntu, or with NODES=simulated.",
)
