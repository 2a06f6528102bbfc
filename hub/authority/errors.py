"""Error codes of the authority: keys at rest, tokens, joins, renewals."""

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

KEY_STORE_DAMAGED = define(
    "authority/key-store-damaged",
    Internal,
    "The hub's key directory does not hold the keys it was created with.",
    hint="Restore the key directory from its backup; the hub never replaces a key it once had.",
)
KEY_STORE_OPEN = define(
    "authority/key-store-open",
    Internal,
    "The hub's key directory can be read by others.",
    hint="Remove all permissions of group and others: chmod -R go= on the directory; a mounted Secret: 0440.",
)
BAD_JOIN = define(
    "authority/bad-join",
    InvalidInput,
    "A join request has a field outside its bounds.",
    hint="Use the join line as the CLI printed it, with an agent of the same version as the hub.",
)
BAD_TOKEN = define(
    "authority/bad-token",
    Unauthenticated,
    "The join token is not one of this hub, has expired, or was spent by another agent.",
    hint="Ask for a new join line: cellward clusters invite <name>.",
)
NO_REALM = define(
    "authority/no-realm",
    Unavailable,
    "The hub has no trust root yet, so nobody can join.",
    hint="Run cellward init and publish the first policy, then join again.",
)
WRONG_REALM = define(
    "authority/wrong-realm",
    Refused,
    "The agent was installed for another realm than this hub serves.",
    hint="Install the agent with the root of this hub's realm, or join it to the hub of its own realm.",
)
LOCKED = define(
    "authority/locked",
    Denied,
    "The agent, its cluster, its certificate or its key is locked.",
    hint="See `cellward locks` for the reason; lift it with `cellward unlock` once that is settled.",
)
NOT_BOUND = define(
    "authority/not-bound",
    Denied,
    "No agent has joined under this name, or its cluster was removed.",
    hint="Ask for a join line: cellward clusters invite <name>.",
)
BOUND_TO_ANOTHER = define(
    "authority/bound-to-another",
    Conflict,
    "Another installation is bound to this cluster name.",
    hint="If it was reinstalled on purpose, run cellward clusters invite <name> --replace.",
)
REPLACED = define(
    "authority/replaced",
    Denied,
    "The certificate belongs to an installation that another one has replaced.",
    hint="Stop this agent; if it is the right one, run cellward clusters invite <name> --replace for it.",
)
STALE_KEY = define(
    "authority/stale-key",
    Denied,
    "A newer certificate of this cluster is in use already: two hold one identity, and both were locked.",
    hint="Find the second copy, or who restored the agent's state from an older backup; "
    "docs/how-to/runbooks/cloned-agent.md says how to go on.",
)
OVERTAKEN = define(
    "authority/overtaken",
    Denied,
    "The agent has a newer certificate than the one it shows.",
    hint="Nothing to do: the agent connects again with the newer one.",
)
SET_BACK = define(
    "authority/restored",
    Conflict,
    "The agent's certificate is newer than the hub's store: the store was restored from an older backup.",
    hint="The hub's store was restored from an older backup. The agent goes on; look for what else was lost.",
)
UID_TAKEN = define(
    "authority/uid-taken",
    Conflict,
    "The cluster uid is bound to another cluster name.",
    hint="A uid is made once per installation and never copied; start the agent with an empty state directory.",
)
TOO_MANY_ATTEMPTS = define(
    "authority/too-many-attempts",
    Exhausted,
    "There were too many attempts from this address.",
    hint="Wait a minute and try again.",
)
LIFETIME = define(
    "authority/token-lifetime",
    InvalidInput,
    "A join token lives between one second and thirty minutes.",
    hint="Choose a shorter lifetime, and invite again when it has expired.",
)
BAD_RECOVERY = define(
    "authority/bad-recovery",
    InvalidInput,
    "A recovery request is invalid: a field is out of bounds, or its nonce is unknown or too old.",
    hint="The agent asks for a new nonce by itself; use an agent of the same version as the hub.",
)
NOT_RECOVERED = define(
    "authority/not-recovered",
    Denied,
    "Recovery refused: the agent's uid or key is unknown, or it was away for too long.",
    hint="Ask for a join line for the same cluster: cellward clusters invite <name>.",
)
