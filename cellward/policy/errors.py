"""Error codes of the policy room, shared by publisher, hub and agent."""

from __future__ import annotations

from cellward.errors import Conflict, InvalidInput, Refused, TooNew, Unavailable, define

BAD_BUNDLE = define(
    "policy/bad-bundle",
    InvalidInput,
    "The policy bundle is not acceptable.",
    hint="Build it with `cellward policy publish` from a directory, or fix what the message names.",
)
BUNDLE_TOO_LARGE = define(
    "policy/bundle-too-large",
    InvalidInput,
    "The policy bundle exceeds a size limit.",
    hint="Split the bundle, or move data out of it.",
)
BAD_ROOTS = define(
    "policy/bad-roots",
    InvalidInput,
    "The bundle claims roots it may not own.",
    hint="Give .manifest explicit roots that are not empty and do not touch `system` or `cellward_gate`.",
)
ROOTS_OVERLAP = define(
    "policy/roots-overlap",
    InvalidInput,
    "Two bundles bound to the same cluster claim overlapping roots.",
    hint="Bind one version of a bundle per cluster, or give the bundles disjoint roots.",
)
DOES_NOT_COMPILE = define(
    "policy/does-not-compile",
    InvalidInput,
    "The policy does not compile with the allowed capabilities.",
    hint="Run `opa check --strict` on it; http.send, time.now_ns and other impure built-ins are refused.",
)
BAD_BINDINGS = define(
    "policy/bad-bindings",
    InvalidInput,
    "The bindings target is malformed.",
    hint="Correct the bindings and publish again.",
)
BINDINGS_TOO_NEW = define(
    "policy/bindings-too-new",
    TooNew,
    "The bindings use a schema or field this version does not know.",
    hint="Upgrade the agent, or publish with an older CLI.",
)
BAD_ROOT = define(
    "policy/bad-root",
    InvalidInput,
    "The root of trust is not acceptable.",
    hint="Compare root.json with the one made by `cellward init`.",
)
FOREIGN_REALM = define(
    "policy/foreign-realm",
    Refused,
    "The content belongs to another installation.",
    hint="Check which root.json this side was installed with.",
)
UNVERIFIED = define(
    "policy/unverified",
    Refused,
    "Verification of the policy metadata or content failed.",
    hint="Nothing was changed; publish again with the keys that root.json names.",
)
ROLLBACK = define(
    "policy/rollback",
    Refused,
    "The policy metadata is older than what was already accepted.",
    hint="Nothing was changed; to go back, publish the older content under a new version.",
)
OLD_BASE = define(
    "policy/old-base",
    Refused,
    "The policy is based on an older one than is in force, so it may undo newer changes.",
    hint="Nothing was changed; take the newest publishers' record from security's repository and publish again.",
)
OVERTAKEN = define(
    "policy/overtaken",
    Conflict,
    "Another publication came first, so this one was refused.",
    hint="Nothing was changed; take the newest publishers' record from security's repository, which has the other one, "
    "and publish again.",
)
KEY_LIFTED = define(
    "policy/key-state-lifted",
    Refused,
    "The keyring makes a retired or compromised key good again.",
    hint="Nothing was changed; find out who signed this keyring. A person who comes back gets a new key.",
)
NO_RECORD = define(
    "policy/no-record",
    Refused,
    "There is no publishers' record here, so nothing says what policy may be signed again.",
    hint="Bring policy-record.json from security's repository, or name it with --record.",
)
BAD_RECORD = define(
    "policy/bad-record",
    InvalidInput,
    "The publishers' record is malformed, or does not hold together.",
    hint="Take the file as it was committed last; nothing is signed from one that was changed by hand.",
)
BAD_PROPOSAL = define(
    "policy/bad-proposal",
    Refused,
    "The proposal is malformed, or was made from something else than the record here.",
    hint="Take the newest policy-record.json, and have the proposal made again if it is older.",
)
RECORD_OLDER = define(
    "policy/record-older",
    Refused,
    "The publishers' record is older than policy that is signed already.",
    hint="Take the newest policy-record.json from security's repository. If it is that, find out who else signs; a "
    "root that was signed and never published is submitted, or taken into the record by `cellward trust follow`.",
)
NO_FLOORS = define(
    "policy/no-floors",
    Refused,
    "This machine remembers no policy of the realm, so it cannot tell whether the publishers' record is the newest.",
    hint="Sign where policy was published before, or run `cellward trust learn` here and compare what it shows with "
    "`cellward trust show` there. A realm's very first policy is published where `cellward init` ran.",
)
NOT_FIRST = define(
    "policy/not-first",
    Refused,
    "This is not the first publication of the realm.",
    hint="Leave out --first-publication, and take the newest publishers' record from security's repository.",
)
EXPIRED = define(
    "policy/expired",
    Refused,
    "The policy metadata has expired.",
    hint="Run `cellward policy refresh`, and check that the hub renews its timestamp.",
)
TIMESTAMP_TOO_LONG = define(
    "policy/timestamp-too-long",
    Refused,
    "The hub's timestamp lives longer than 24 hours.",
    hint="A hub signs timestamps of at most 24 hours; check which program signed this one.",
)
INCOMPLETE = define(
    "policy/incomplete-set",
    Refused,
    "The policy set misses something that its bindings select.",
    hint="Publish bundles, bindings and keyring together.",
)
UNREACHABLE = define(
    "policy/content-unreachable",
    Unavailable,
    "The policy content could not be fetched.",
    hint="The set accepted before stays in force; it is tried again.",
)
NO_VERIFIED_SET = define(
    "policy/no-verified-set",
    Refused,
    "There is no verified policy set, so nothing is allowed.",
    hint="Publish policy with `cellward policy publish`, and check that the agent reaches the hub.",
)
ENGINE_UNAVAILABLE = define(
    "policy/engine-unavailable",
    Unavailable,
    "The policy engine does not answer.",
    hint="It is restarted with back-off; if it stays away, look at the agent's log and at its opa_binary.",
)
ENGINE_NOT_STARTABLE = define(
    "policy/engine-not-startable",
    Unavailable,
    "The policy engine cannot be started, so nothing new is allowed.",
    hint="Look at the agent's opa_binary: the file must be there, be executable, and run on this machine "
    "(`opa version`). The agent tries again by itself; what runs goes on running.",
)
CANARY_FAILED = define(
    "policy/canary-failed",
    Refused,
    "The new policy set does not answer its canary query, so the old one stays in force.",
    hint="Check that the entrypoint in .manifest exists and evaluates without errors.",
)
STATE_CORRUPT = define(
    "policy/state-corrupt",
    Refused,
    "The accepted policy on disk is not what was recorded.",
    hint="Nothing is allowed until a set verifies again; find out who changed the agent's state.",
)
STATE_OLDER = define(
    "policy/state-older",
    Refused,
    "The accepted policy on disk is gone or was restored from an older backup.",
    hint="Nothing is allowed until a set verifies again; find out who emptied or restored the agent's state.",
)
NOTHING_PUBLISHED = define(
    "policy/nothing-published",
    Conflict,
    "No policy was published yet.",
    hint="Run `cellward policy publish` first.",
)
STATE_UNWRITABLE = define(
    "policy/state-unwritable",
    Unavailable,
    "The accepted policy could not be written to disk.",
    hint="Free space on the agent's volume; the set accepted before stays in force.",
)
EVALUATION_FAILED = define(
    "policy/evaluation-failed",
    Refused,
    "A policy failed while it was evaluated, which counts as a denial.",
    hint="Correct the rule the message names: a built-in got a value it cannot take, or two rules contradict.",
)

# What the evaluator itself answers with, as the rule of a denial, where no bundle could.
_REPAIR = "Correct the bundle and publish it again."
UNDEFINED = define(
    "policy/undefined", Refused, "A bundle gave no result for an object, which counts as a denial.", hint=_REPAIR
)
NOT_EVALUATED = define(
    "policy/not-evaluated", Refused, "A bundle could not be evaluated, which counts as a denial.", hint=_REPAIR
)
MALFORMED_RESULT = define(
    "policy/malformed-result",
    Refused,
    "A bundle gave a result without rule and reason, which counts as a denial.",
    hint=_REPAIR,
)
NO_BINDING = define(
    "policy/no-binding",
    Refused,
    "No policy binding selects the cluster and environment, so nothing is allowed there.",
    hint="Publish a binding whose selector matches the cluster's facts.",
)
ENVIRONMENT_NOT_HOSTED = define(
    "policy/environment-not-hosted",
    Refused,
    "The environment is not among those of the cluster's own facts.",
    hint="Deploy to a cluster whose facts name the environment.",
)
