"""Codes of red lines: what ``cellward check`` and ``cellward status`` find, with the same words."""

from __future__ import annotations

from cellward.errors import Conflict, Refused, Unavailable, define

AGENT_AWAY = define(
    "check/agent-away",
    Unavailable,
    "The agent is not connected to the hub.",
    hint="Look at the agent's log and at its way to the hub; it keeps enforcing what it verified while it is away.",
)
NOT_JOINED = define(
    "check/not-joined",
    Unavailable,
    "A cluster was invited and no agent has joined yet.",
    hint="Run the line that `cellward clusters invite NAME` prints.",
)
HIDDEN = define(
    "check/cluster-hidden",
    Conflict,
    "A cluster that this machine knows is missing on the hub.",
    hint="Ask its administrator whether its agent runs, and the hub's administrator why it is "
    "missing. If it was removed from "
    "another machine, take it out of `clusters:` in trust.yaml; with a new hub, run `cellward clusters invite NAME`.",
)
NO_POLICY = define(
    "check/no-policy",
    Conflict,
    "No policy is published, or a cluster has verified none.",
    hint="Run `cellward policy publish DIR`.",
)
ROOT_ENDS = define(
    "check/root-ends",
    Unavailable,
    "The root of trust has expired, or expires soon.",
    hint="Renew it with the root keys: `cellward trust upgrade --renew --out FILE`, then sign and submit the file.",
)
TARGETS_END = define(
    "check/targets-end",
    Unavailable,
    "The signed policy has expired, or expires soon.",
    hint="Run `cellward policy publish DIR`; agents accept nothing new from an expired one.",
)
AUTHOR_KEY_ENDS = define(
    "check/author-key-ends",
    Unavailable,
    "An author's key has expired, or expires soon.",
    hint="Run `cellward author rotate OWNER --key FILE` with a new key of the author's.",
)
HUB_CA_ENDS = define(
    "check/hub-ca-ends",
    Unavailable,
    "The CA of the hub has expired, or expires soon.",
    hint="Get the hub's new CA from its administrators and run `cellward login` with it.",
)
SNAPSHOT_ENDS = define(
    "check/snapshot-ends",
    Unavailable,
    "The policy snapshot has expired, or expires soon.",
    hint="Run `cellward policy refresh`, and let a schedule do it.",
)
TIMESTAMP_ENDED = define(
    "check/timestamp-ended",
    Unavailable,
    "The hub's policy timestamp has expired.",
    hint="The hub renews it by itself; look at its log.",
)
OTHER_AUDIT_KEY = define(
    "check/other-audit-key",
    Refused,
    "The hub signs its audit log with another key than the one trusted here.",
    hint="Find out why: the hub's keys were replaced, or this is another hub.",
)
CERTIFICATE_ENDED = define(
    "check/certificate-ended",
    Unavailable,
    "The certificate of an agent has expired.",
    hint="It renews itself at half its life; look at the agent's log.",
)
RECORDS_WAIT = define(
    "check/records-wait",
    Unavailable,
    "Many audit records of an agent are not delivered to the hub yet.",
    hint="Look at condition audit of this cluster and at the hub's log.",
)
