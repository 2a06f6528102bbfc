"""Error codes of the command line."""

from __future__ import annotations

from cellward.errors import Conflict, Denied, Internal, InvalidInput, NotFound, Refused, Unavailable, define

NOT_LOGGED_IN = define(
    "cli/not-logged-in",
    InvalidInput,
    "Not logged in to a hub.",
    hint="Run `cellward login --server https://HOST:PORT --ca-file FILE --token-file FILE`.",
)
NOT_INITIALISED = define(
    "cli/not-initialised",
    InvalidInput,
    "There is no trust.yaml here yet.",
    hint="Run `cellward init`, or point --home to the directory that has one.",
)
BAD_FILE = define("cli/bad-file", InvalidInput, "A file cannot be used.", hint="Correct what the message names.")
BAD_OPTION = define("cli/bad-option", InvalidInput, "An option cannot be used.", hint="See the command's --help.")
NO_PASSPHRASE = define(
    "cli/no-passphrase",
    InvalidInput,
    "The local keys are encrypted and no passphrase was given.",
    hint="Give --passphrase-file, set CELLWARD_PASSPHRASE_FILE or CELLWARD_PASSPHRASE, or run it in a terminal.",
)
INTERNAL = define(
    "cli/internal",
    Internal,
    "Internal error of the command.",
    hint="Set CELLWARD_DEBUG=1 to see where, and report it with what you typed.",
)
NO_ENGINE = define(
    "cli/no-engine",
    InvalidInput,
    "There is no OPA here to compile bundles with, so nothing was signed.",
    hint="Give --opa or set CELLWARD_OPA; --skip-compile signs what nobody compiled, and agents may refuse it.",
)
MISSING_KEY = define(
    "cli/missing-key",
    NotFound,
    "A key that is needed is not on this machine.",
    hint="Run the command where the key is, or name its directory with --home.",
)
UNREACHABLE = define(
    "cli/hub-unreachable",
    Unavailable,
    "The hub cannot be reached.",
    hint="Check the address, that the hub runs, and any proxy in between.",
)
UNTRUSTED_HUB = define(
    "cli/hub-untrusted",
    Unavailable,
    "The server's certificate does not verify.",
    hint="Compare --ca-file with the CA of your hub; never continue without it.",
)
BAD_ANSWER = define(
    "cli/bad-answer",
    Internal,
    "The server's answer is not a valid answer of a hub.",
    hint="Check the address, and that hub and CLI are at most one minor version apart.",
)
BAD_INVITATION = define(
    "cli/bad-invitation",
    Refused,
    "Verification failed: the hub's answer is no valid invitation, so nothing was printed or written.",
    hint="Tell whoever runs the hub; compare its enrolment address and CA with what you know. Install nothing of it.",
)
HUB_ERROR = define("cli/hub-error", Internal, "Internal error of the hub.", hint="Look at the hub's log.")
HUB_DENIED = define(
    "cli/hub-denied",
    Denied,
    "Not authorized by the hub.",
    hint="Log in with a token of a stronger role, or look at the proxy in between.",
)
HUB_REFUSED = define(
    "cli/hub-refused",
    Refused,
    "The hub refused the request.",
    hint="Correct what the message names; the hub's log says more.",
)
HUB_NOT_FOUND = define(
    "cli/hub-not-found",
    NotFound,
    "Not found on the hub.",
    hint="Compare the name with what the list commands show.",
)
HUB_CONFLICT = define(
    "cli/hub-conflict",
    Conflict,
    "Conflict: it was changed on the hub.",
    hint="Look at the state now, and run the command again.",
)
HUB_UNAVAILABLE = define(
    "cli/hub-unavailable", Unavailable, "The hub cannot answer now.", hint="Try again in a moment."
)
FOREIGN_HUB = define(
    "cli/foreign-hub",
    Refused,
    "The hub belongs to another installation than the local trust.yaml.",
    hint="Log in to the right hub, or use another --home.",
)
NOT_READY = define(
    "cli/not-ready",
    Conflict,
    "Timed out waiting for the clusters.",
    hint="Look at `cellward cells show PROJECT/CELL` for the reason.",
)
COMMAND_REFUSED = define(
    "cli/command-refused",
    Refused,
    "The agent did not carry out the command.",
    hint="The reason and code are the agent's; look at its log, and at `cellward check`.",
)
NO_OUTCOME = define(
    "cli/no-outcome",
    Unavailable,
    "Timed out waiting for the outcome of the command.",
    hint="Give it again with the same --id to look again; with a new one if the agent's link ended meanwhile.",
)
NO_IMAGE = define(
    "cli/no-image",
    InvalidInput,
    "No image of the agent is configured, so no join line was made.",
    hint="Set image: REPOSITORY@sha256:DIGEST in trust.yaml, or give --agent-config DIR to run the agent as a process.",
)
NO_CHART = define(
    "cli/no-chart",
    InvalidInput,
    "There is no chart of the agent, so no join line was made.",
    hint="Set chart in trust.yaml: oci://REGISTRY/cellward-agent with chartVersion, or the path of the chart.",
)
NO_CLUSTER = define(
    "cli/no-cluster",
    NotFound,
    "There is no cluster to wait for.",
    hint="Compare environments and selector with `cellward clusters list`; a cluster that joins later takes it then.",
)
CELL_REFUSED = define(
    "cli/cell-refused",
    Refused,
    "A cluster refused the cell.",
    hint="Follow the next step named with the refusal.",
)
NOT_VERIFIED = define(
    "cli/not-verified",
    Conflict,
    "Verification failed: the audit export is not intact.",
    hint="Keep the file, export again, and ask whoever runs the hub about each problem named.",
)
NOT_ANCHORED = define(
    "cli/not-anchored",
    Conflict,
    "Verification failed: a part of the audit export is vouched for by the hub alone.",
    hint="Give an anchor that does not come from the hub (--endorsed, --checkpoint or --witness), or "
    "accept it with --accept-unanchored.",
)
NOT_WITNESSED = define(
    "cli/not-witnessed",
    Refused,
    "Verification failed: the log does not extend what this witness co-signed before, so nothing was signed.",
    hint="Keep the export and the checkpoint kept before, and tell the auditors: two histories of one log are proof.",
)
NOT_SIGNED = define(
    "cli/not-signed",
    Conflict,
    "Signing was declined at the prompt.",
    hint="Ask whoever proposed it what each difference is for; `--dry-run` shows the whole proposal.",
)
EXISTS = define(
    "cli/exists",
    Conflict,
    "It exists already and is not overwritten.",
    hint="Move it away, or choose another --home.",
)
PEER_NOT_NAMED = define(
    "cli/peer-not-named",
    Refused,
    "Only the hub vouches for the other end of a connection, so nothing was signed.",
    hint="Add the peer's file, or name its release with --peer DIGEST.",
)
NO_KUBECTL = define(
    "cli/no-kubectl",
    InvalidInput,
    "kubectl was not found; it is needed to read the agent's facts from the cluster.",
    hint="Put kubectl on the PATH.",
)
CLUSTER_UNREACHABLE = define(
    "cli/cluster-unreachable",
    Unavailable,
    "The cluster could not be read through its kubeconfig.",
    hint="Check --kubeconfig, --context and --namespace, and that the agent runs there: it publishes the ConfigMap.",
)
BAD_IDENTITY = define(
    "cli/bad-identity",
    Refused,
    "The facts that the agent reports cannot be endorsed.",
    hint="Check that the kubeconfig is that of the cluster, and that the agent there is of this version.",
)
