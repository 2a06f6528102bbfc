"""What a receipt is worth: evidence when an endorsed key signed it, the hub's word otherwise.

A receipt is signed by the agent's statement key, which no hub holds. But that the key *is* the agent's, a hub alone
would say: only an author's endorsement ties key and cluster together. Verified here, with the local keyring; the hub's
answer is only looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cellward.errors import CellwardError
from cli.context import now
from cli.output import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cellward.api import schemas
    from cellward.documents.model import ClusterEndorsement
    from cellward.documents.revocations import Revocations
    from cli.door.client import Client
    from cli.home import Home

#: What is shown.
ENDORSED, VOUCHED, NONE = "endorsed", "vouched by the hub only", "-"


def evidence_of(state: schemas.CellState, spki: bytes, endorsements: Sequence[ClusterEndorsement], realm: str) -> str:
    """What the receipt of a cell on a cluster is worth; ``spki`` is the key the hub says is its agent's."""
    from cellward.audit.receipt import verify_receipt

    if not state.receipt:
        return NONE if state.acknowledged is None else VOUCHED
    for endorsement in endorsements:
        if endorsement.name != state.cluster:
            continue
        try:
            said = verify_receipt(state.receipt, realm, endorsement.uid, spki, endorsement.statement_keyid)
        except CellwardError:
            continue
        about = (said.project, said.cell, said.environment, said.deployment_digest, said.accepted)
        if about == (state.project, state.cell, state.environment, state.desired_digest, state.acknowledged):
            return ENDORSED
    return VOUCHED


def with_evidence(client: Client, home: Home, states: Sequence[schemas.CellState]) -> list[schemas.CellState]:
    """The states with what their receipts are worth; whatever a hub said about that is thrown away."""
    endorsements: tuple[ClusterEndorsement, ...] = ()
    realm, keys = "", dict[str, bytes]()
    if any(state.receipt for state in states) and home.file("trust.yaml").exists():
        realm = home.trust().realm
        endorsements, keys = _known(client, home)
    return [
        state.model_copy(update={"evidence": evidence_of(state, keys.get(state.cluster, b""), endorsements, realm)})
        for state in states
    ]


def _known(client: Client, home: Home) -> tuple[tuple[ClusterEndorsement, ...], dict[str, bytes]]:
    """Endorsements that the floored policy bears out, and the statement keys the hub says its agents have.

    A signed lock on the agent, its cluster or its key takes the endorsement away: whoever has a stolen statement key
    signs receipts as well as the agent does.
    """
    from cellward.documents.keyring import Verifier
    from cli.clusters import all_clusters
    from cli.door.documents import HubDocuments
    from cli.door.keyring import trusted_policy

    trust, moment = home.trust(), now()
    revoked: list[Revocations] = []

    def verifier() -> Verifier:
        policy = trusted_policy(client, home, trust, moment)
        revoked.append(policy.revocations)
        return Verifier(policy.keyring, trust.realm)

    try:
        found = HubDocuments(client, verifier, moment).endorsements()
    except CellwardError as error:
        say(f"note: no endorsement can be verified: {error.message} [{error.code}]")
        return (), {}
    endorsements = tuple(one for one in found if not any(_locked(one, by) for by in revoked))
    if not endorsements:
        return (), {}
    return endorsements, {cluster.name: cluster.statement_spki for cluster in all_clusters(client)}


def _locked(one: ClusterEndorsement, by: Revocations) -> bool:
    return by.lock_of(uid=one.uid, cluster=one.name) is not None or by.lock("key", one.statement_keyid) is not None
