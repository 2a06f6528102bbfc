"""What each line of ``cellward check`` looks at; the reference page of checks is made from it.

Ids, next steps and codes are the code's own: ``tools.generate.checks`` compares, and fails where one side lacks an id.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explained:
    """A check as the reference explains it.

    Attributes:
        id: as in ``Result.id``; a number in it is written ``N``.
        looks: what it looks at.
        fails: when it fails.
        codes: codes it fails or warns with; the next step of each is in the catalogue of errors. Others may occur where
            ``more`` is set: the line itself names the code then.
        warns: when it warns; empty for a check that never does.
        more: whether codes of other rooms may occur as well.
    """

    id: str
    looks: str
    fails: str
    codes: tuple[str, ...] = ()
    warns: str = ""
    more: bool = False


_SOON = "A quarter of its life, or less, is left."
_ENDS = "A tenth of its life, or less, is left, or it has expired."

CHECKS: tuple[Explained, ...] = (
    # -- what this machine finds ---------------------------------------------------------------------------------------
    Explained(
        "hub/reachable",
        "Whether the API of the hub answers and accepts the token of this machine.",
        "No connection, a certificate that does not verify, or a token that is not accepted. Everything that needs the "
        "hub is skipped then.",
        ("cli/hub-unreachable", "cli/hub-untrusted", "cli/not-logged-in", "api/bad-token"),
        more=True,
    ),
    Explained(
        "trust/realm",
        "Whether the hub serves the realm that trust.yaml names.",
        "The realms differ, or there is no trust.yaml.",
        ("cli/foreign-hub", "cli/not-initialised"),
    ),
    Explained(
        "trust/audit-key",
        "Whether the hub signs its audit log with the key in trust.yaml.",
        "The hub shows another key.",
        ("check/other-audit-key",),
    ),
    Explained(
        "trust/hub-ca",
        "The life of each CA certificate in hub-ca.pem, by which this machine verifies the hub.",
        _ENDS,
        ("check/hub-ca-ends",),
        _SOON,
    ),
    Explained("trust/keys", "Whether `cellward init` made the keys for evaluation, unencrypted.", "Never; it informs."),
    Explained(
        "policy/published",
        "Whether a policy is published, with how many bundles and bindings.",
        "No policy is published.",
        ("check/no-policy",),
    ),
    Explained(
        "policy/timestamp",
        "The TUF timestamp that the hub signs.",
        "It has expired: agents treat the hub's policy as frozen.",
        ("check/timestamp-ended",),
    ),
    Explained(
        "policy/accepted",
        "Whether the policy that the hub shows verifies and may follow what this machine has seen.",
        "It is older than what was seen, or does not verify.",
        ("policy/rollback", "policy/unverified", "policy/expired"),
        more=True,
    ),
    Explained("policy/root", "The life of the TUF root.", _ENDS, ("check/root-ends",), _SOON),
    Explained("policy/targets", "The life of the signed targets.", _ENDS, ("check/targets-end",), _SOON),
    Explained("policy/keyring", "The life of the signed keyring.", _ENDS, ("check/targets-end",), _SOON),
    Explained("policy/snapshot", "The life of the TUF snapshot.", _ENDS, ("check/snapshot-ends",), _SOON),
    Explained(
        "policy/author-key",
        "The life of each active key in the keyring, one line each.",
        _ENDS,
        ("check/author-key-ends",),
        _SOON,
    ),
    Explained(
        "clusters/list",
        "Whether the hub can list the clusters; shown only when there are none or the hub cannot be asked.",
        "The list cannot be read.",
        more=True,
    ),
    Explained(
        "clusters/listed",
        "Whether the hub lists every cluster in `clusters:` of trust.yaml, and as joined if it was endorsed here.",
        "One is missing, or shown as if no agent had joined.",
        ("check/cluster-hidden",),
    ),
    Explained(
        "clusters/facts",
        "Whether the cluster reports the facts it was invited with. Shown once its agent has reported some.",
        "A fact differs. The cluster is given only what both name.",
        ("fleet/facts-differ",),
    ),
    Explained(
        "clusters/connected",
        "Whether the agent has an open link to the hub. Skipped for a cluster that was invited and has not joined.",
        "There is no link. All other lines about that agent, but for its policy, are skipped.",
        ("check/agent-away",),
    ),
    Explained(
        "clusters/policy-fresh",
        "The snapshot that the agent has verified.",
        "The agent has verified no policy yet, or the snapshot has expired.",
        ("check/no-policy", "policy/expired"),
    ),
    Explained(
        "clusters/certificate-life",
        "The life of the agent's certificate (one hour), as the agent reported it.",
        _ENDS,
        ("check/certificate-ended",),
        f"{_SOON} Agents renew at half.",
    ),
    Explained(
        "clusters/certificate",
        "Whether the agent can join, and renew its certificate.",
        "It cannot; a certificate that it has stays in use until it expires.",
        ("link/certificate-expired", "link/no-join-token", "link/other-hub"),
        more=True,
    ),
    Explained(
        "clusters/spool",
        "How many audit records of the agent the hub has not acknowledged.",
        "There are 10,000 or more.",
        ("check/records-wait",),
    ),
    # -- conditions of the hub -----------------------------------------------------------------------------------------
    Explained("hub/api", "The version of the hub.", "Never; it informs."),
    Explained(
        "hub/store",
        "Whether the database answers and takes writes.",
        "It is full, damaged or does not answer.",
        ("store/unavailable", "store/full", "store/damaged"),
        more=True,
    ),
    Explained(
        "hub/store-pages",
        "The pages of the database, read whole after each start and once a day.",
        "A page or a file is damaged.",
        ("store/damaged",),
        more=True,
    ),
    Explained(
        "hub/audit-log",
        "The audit log: its end at start; then, and once a day, every record against the hashes of the log.",
        "A record does not fit its hash, or the end of the log is missing.",
        ("store/damaged",),
        more=True,
    ),
    Explained(
        "hub/audit-intake",
        "Whether the hub takes audit records of agents.",
        "The volume is nearly full, or an agent sends more than the rate limit.",
        ("audit/no-room", "audit/too-fast"),
    ),
    Explained(
        "hub/connections",
        "Limits of connections of the hub's listeners.",
        "Connections were dropped within the last minute, or the process may open too few files for its limits.",
        ("hub/connections-dropped", "hub/few-descriptors"),
    ),
    Explained(
        "hub/api-certificate",
        "Whether the API serves the newest certificate of the hub.",
        "The new certificate cannot be loaded.",
        ("api/certificate-not-shown",),
    ),
    # -- conditions of agents ------------------------------------------------------------------------------------------
    Explained(
        "clusters/admission-guard",
        "Whether the admission policies of the chart are in the cluster as the chart has them.",
        "One is missing or changed. Nothing new is applied.",
        ("apply/admission-guard",),
    ),
    Explained(
        "clusters/api-server",
        "The agent's watches on the API server of its cluster.",
        "A watch is not connected.",
        ("kube/unavailable", "kube/forbidden"),
        more=True,
    ),
    Explained(
        "clusters/audit-push",
        "Whether the hub takes the agent's audit records.",
        "The hub refuses them; they wait on the agent.",
        ("link/audit-not-taken", "link/log-key-changed", "audit/no-room", "audit/too-fast"),
        more=True,
    ),
    Explained(
        "clusters/audit-spool",
        "Whether the agent can write its audit records to its volume.",
        "The volume is full or cannot be written. Nothing new is applied.",
        ("spool/full", "spool/unwritable"),
        more=True,
    ),
    Explained(
        "clusters/cell-labels",
        "Namespaces that say in their labels that they are cells.",
        "The agent never accepted one, or has no record of it any more.",
        ("stamps/not-a-cell", "stamps/cell-not-on-record"),
    ),
    Explained(
        "clusters/cells",
        "All cells of the cluster together.",
        "A cell is degraded, refused, or waits for something that somebody must change.",
        ("cell/not-healthy", "cell/worker-ended"),
        more=True,
    ),
    Explained(
        "clusters/clock",
        "The clock of the agent, against the time that has passed since it started.",
        "The clock jumped ahead.",
        ("document/clock-jumped-ahead",),
    ),
    Explained(
        "clusters/desired-items",
        "Whether the agent can use what the hub lists for it.",
        "An item is malformed, or the agent's list differs from the hub's after a full comparison.",
        ("link/item-unusable", "link/items-differ"),
        more=True,
    ),
    Explained(
        "clusters/foreign-isolation",
        "Policies of the network plugin (not NetworkPolicies) that select namespaces of cells.",
        "One may be about a cell, so its isolation is not known.",
        ("isolation/foreign-policy",),
    ),
    Explained(
        "clusters/hub-link",
        "The stream to the hub, as the agent sees it.",
        "The agent cannot connect, or its stream was refused. Through the hub it is seen only shortly.",
        ("link/hub-unavailable", "wire/no-common-version"),
        more=True,
    ),
    Explained(
        "clusters/policy-engine",
        "The OPA process that decides.",
        "It does not run or does not answer. Nothing new is applied.",
        ("policy/engine-not-startable", "policy/engine-unavailable", "policy/canary-failed"),
        more=True,
    ),
    Explained(
        "clusters/policy-engine-advisory-N",
        "The OPA process for bindings that only report.",
        "It does not run or does not answer. What is enforced is decided all the same.",
        ("policy/engine-not-startable", "policy/engine-unavailable", "policy/canary-failed"),
        more=True,
    ),
    Explained(
        "clusters/policy-set",
        "The policy that the agent has verified.",
        "A newer one does not verify, cannot be fetched or compiled, or the accepted one was damaged.",
        ("policy/unverified", "policy/rollback", "policy/does-not-compile", "policy/state-corrupt"),
        more=True,
    ),
    Explained(
        "clusters/repairs",
        "Objects that differ from the release and could not be repaired.",
        "A repair failed twice, or something that was deleted is still there after 15 seconds.",
        ("cell/not-repaired",),
    ),
    Explained(
        "clusters/stamps",
        "The stamps of accepted namespaces.",
        "A cell did not get its new stamp in time, or the stamps cannot be saved.",
        ("stamps/cell-left-behind", "stamps/not-saved"),
        more=True,
    ),
    Explained(
        "clusters/state-anchor",
        "The copy of the agent's floors and position, in a Secret of its namespace.",
        "It cannot be written.",
        ("spool/anchor-unavailable", "spool/floors-too-large"),
        more=True,
    ),
)
