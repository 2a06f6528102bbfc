"""Errors of cells: why one is not what somebody wanted it to be."""

from __future__ import annotations

from cellward.errors import Conflict, Internal, Refused, define

EDGE_DIFFERS = define(
    "cell/edge-differs",
    Refused,
    "A connection is closed: what runs on the other side is not what it was signed for.",
    hint="Apply the cell again with the values of what runs there, or deploy there what it was signed for.",
)
WORKER_ENDED = define(
    "cell/worker-ended",
    Internal,
    "The worker of a cell has ended.",
    hint="Restart the agent and report this; what runs goes on running, but nothing of the cell is repaired.",
)
UNHEALTHY = define(
    "cell/not-healthy",
    Refused,
    "The release did not become healthy in time.",
    hint="Look at the pods named in the reason, then deploy a corrected release.",
)
HELD = define(
    "cell/held",
    Refused,
    "The deployment is on hold.",
    hint="Lift the hold: `cellward lift PROJECT/CELL`.",
)
LOCKED = define(
    "apply/locked",
    Refused,
    "A signed lock holds this cluster, so nothing new is accepted; what runs is kept, repaired and isolated.",
    hint="Whoever holds the keyring key lifts it: cellward unlock --signed KIND/SUBJECT.",
)
PRUNE_BRAKE = define(
    "apply/prune-needs-confirmation",
    Refused,
    "The change deletes more objects than the prune limit allows without confirmation.",
    hint="Sign a Deployment that confirms the number.",
)
ADOPTED = define(
    "cell/adopted",
    Conflict,
    "Objects of the cell were in the cluster but in no record of the agent; it manages them again.",
    hint="The agent's state was lost or restored from an older backup. Deploy the cell again, so "
    "that it is what was signed.",
)
