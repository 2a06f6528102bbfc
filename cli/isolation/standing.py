"""What runs on the clusters, as far as signatures go: the ground of every answer about isolation.

A hub says which Deployment and which release an agent reports; both are fetched and verified by the floored keyring,
and must be of the cell that they are shown for. That the cluster runs just these is evidence only where an endorsed
statement key signed the receipt; that nothing newer is in force, or that a cell is in quarantine, stays the hub's word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from cellward.errors import CellwardError, Unavailable
from cli.context import now
from cli.door.pages import every
from cli.output import short

if TYPE_CHECKING:
    from cellward.api import schemas
    from cellward.documents.model import Deployment, Release
    from cellward.documents.names import CellKey
    from cellward.isolation.cells import Member
    from cli.door.client import Client
    from cli.door.documents import HubDocuments
    from cli.home import Home


@dataclass(frozen=True, slots=True)
class Standing:
    """One cell on one cluster.

    ``evidence`` is ``endorsed`` or ``vouched by the hub only``; ``isolation`` is what the agent measured, by the hub.
    """

    cluster: str
    key: CellKey
    release: Release
    digest: str
    signers: tuple[str, ...]
    evidence: str
    isolation: str
    quarantined: bool

    def __str__(self) -> str:
        return f"{path_of(self.key)} on {self.cluster}"


@dataclass(frozen=True, slots=True)
class Fleet:
    """Cells by cluster, each with what was rendered from its release; and what could not be verified, in sentences."""

    cells: tuple[Standing, ...]
    unverified: tuple[str, ...]

    def clusters(self) -> tuple[str, ...]:
        """Clusters with a cell, in order."""
        return tuple(sorted({one.cluster for one in self.cells}))

    def on(self, cluster: str) -> tuple[Standing, ...]:
        """Cells of a cluster, in order."""
        return tuple(sorted((one for one in self.cells if one.cluster == cluster), key=lambda one: one.key))

    def members(self, cluster: str) -> dict[CellKey, Member]:
        """The same as ends of connections; raises what rendering raises."""
        from cellward.isolation.cells import members

        placed = ((one.key.environment, one.release, one.quarantined) for one in self.on(cluster))
        return {one.key: one for one in members(placed)}


def path_of(key: CellKey) -> str:
    """Return a cell as it is typed."""
    return "/".join(key)


def fleet(client: Client, home: Home, *, clusters: Sequence[str] = (), environments: Sequence[str] = ()) -> Fleet:
    """Return what runs, of the clusters and environments that are asked for; of all when none are.

    Raises cli/not-initialised and what asking a hub, and verifying its policy set, raises.
    """
    from cli.door.documents import HubDocuments
    from cli.door.keyring import verifier
    from cli.evidence import with_evidence

    trust, moment = home.trust(), now()
    by = verifier(client, home, trust, moment)
    reader = _Reader(HubDocuments(client, lambda: by, moment))
    states = [
        state
        for state in with_evidence(client, home, list(_states(client)))
        if (not clusters or state.cluster in clusters) and (not environments or state.environment in environments)
    ]
    cells = tuple(one for state in states if (one := reader.read(state)) is not None)
    return Fleet(cells, tuple(reader.unverified))


def _states(client: Client) -> Iterator[schemas.CellState]:
    """Every cell on every cluster, as the hub shows it; each once, and under its own name."""
    from cellward.api import schemas

    seen = set()
    for item in every(lambda cursor: client.get("/cells", schemas.CellList, cursor=cursor)):
        found = client.get(f"/cells/{item.project}/{item.cell}", schemas.Cell)
        for state in found.states:
            where = (state.cluster, state.project, state.cell, state.environment)
            if (state.project, state.cell) == (item.project, item.cell) and where not in seen:
                seen.add(where)
                yield state


class _Reader:
    """Fetches and verifies what states name, each document once."""

    def __init__(self, documents: HubDocuments) -> None:
        self._deployment = cache(documents.deployment)
        self._release = cache(documents.release)
        self.unverified: list[str] = []

    def read(self, state: schemas.CellState) -> Standing | None:
        """One state; None, and a sentence among the unverified, for what cannot be believed."""
        from cellward.documents.names import CellKey
        from cellward.isolation.cells import members
        from cli.evidence import ENDORSED, VOUCHED

        key = CellKey(state.project, state.cell, state.environment)
        about = f"{path_of(key)} on {state.cluster}"
        if not state.deployment_digest or not state.release_digest:
            # Nothing was accepted, so there is nothing to be verified: its namespace is empty and closed.
            self.unverified.append(f"{about}: the hub knows of nothing that was accepted there; it is left out")
            return None
        try:
            deployment = self._deployment(state.deployment_digest).document
            release = self._release(state.release_digest)
            # What cannot be rendered here is reported of its cell, and does not hide the others.
            members([(state.environment, release.document, False)])
        except CellwardError as error:
            if isinstance(error, Unavailable):
                raise
            self.unverified.append(f"{about}: {error.message} [{error.code}]; it is left out")
            return None
        if wrong := _wrong(key, deployment, release.document):
            self.unverified.append(f"{about}: {wrong}; it is left out")
            return None
        current = state.acknowledged is True and state.deployment_digest == state.desired_digest
        evidence = state.evidence if current and state.evidence == ENDORSED else VOUCHED
        self._doubt(about, state, deployment, evidence == ENDORSED)
        signers = tuple(sorted({signer.owner for signer in release.signers}))
        return Standing(
            state.cluster, key, release.document, release.digest, signers, evidence, state.isolation,
            quarantined=state.hub_state == "quarantine",
        )  # fmt: skip

    def _doubt(self, about: str, state: schemas.CellState, deployment: Deployment, endorsed: bool) -> None:
        if not endorsed:
            self.unverified.append(
                f"{about}: that it runs release {short(state.release_digest)} is the hub's word only"
            )
        elif state.release_digest != deployment.release_digest:
            self.unverified.append(
                f"{about}: the hub says it runs release {short(state.release_digest)}, and its Deployment places "
                f"{short(deployment.release_digest)}"
            )
        if state.hub_state == "quarantine":
            self.unverified.append(f"{about}: that it is in quarantine is the hub's word only")
        if not state.connected:
            self.unverified.append(f"{about}: the cluster's link is down, so this is how it was last reported")


def _wrong(key: CellKey, deployment: Deployment, release: Release) -> str:
    """Say what does not belong together; whose signatures are good may still be another cell's."""
    if (deployment.project, deployment.cell) != key[:2] or key.environment not in deployment.environments:
        return "the hub shows a Deployment of another cell or environment for it"
    if (release.project, release.cell) != key[:2]:
        return "the hub shows a release of another cell for it"
    return ""
