"""Conversions between messages and domain values, and the digest both ends compare when a link resumes.

Messages may grow and are read leniently; every value that goes on into a decision is bounded here. Names of clusters
never come from a message (V3): whoever converts passes the name the certificate proved.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cellward.documents import canonical, names
from cellward.documents.facts import ClusterFacts
from cellward.errors import CellwardError
from cellward.wire.errors import BAD_MESSAGE
from cellward.wire.v1 import link_pb2, types_pb2

HubState = Literal["run", "hold", "quarantine"]

#: Most facts of one kind (environments, labels, projects) taken from a message.
MAX_FACTS = 64
#: Longest text of a fact, a name or a reason, in characters.
MAX_TEXT = 1024
#: Most evidence digests of one desired item.
MAX_EVIDENCE = 64
#: Largest document that travels with its item, and all of one item, bytes; larger ones are fetched.
MAX_CARRIED, MAX_CARRIED_OF_ITEM = 32 * 1024, 128 * 1024
#: Largest policy set that travels with its notice, bytes.
MAX_CARRIED_SET = 256 * 1024

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_NAME_LIMITS = (names.PROJECT_MAX, names.CELL_MAX, names.ENVIRONMENT_MAX)
_TO_STATE: dict[int, HubState] = {
    link_pb2.HUB_STATE_UNSPECIFIED: "run",
    link_pb2.HUB_STATE_RUN: "run",
    link_pb2.HUB_STATE_HOLD: "hold",
    link_pb2.HUB_STATE_QUARANTINE: "quarantine",
}
_FROM_STATE: dict[HubState, link_pb2.HubState.ValueType] = {
    "run": link_pb2.HUB_STATE_RUN,
    "hold": link_pb2.HUB_STATE_HOLD,
    "quarantine": link_pb2.HUB_STATE_QUARANTINE,
}


@dataclass(frozen=True, slots=True)
class DesiredItem:
    """One cell as the hub would have it; nothing in it is believed, it only says which documents to verify.

    Attributes:
        revision: the hub's number of this change, growing per cluster.
        deployment_digest: digest of a Deployment or Tombstone, ``sha256:<hex>``.
        evidence: digests of further documents (release, approvals, fallback release).
        hub_state: narrowing by the hub.
    """

    revision: int
    project: str
    cell: str
    environment: str
    deployment_digest: str
    evidence: tuple[str, ...] = ()
    hub_state: HubState = "run"

    @property
    def key(self) -> names.CellKey:
        """What an item replaces."""
        return names.CellKey(self.project, self.cell, self.environment)


def item_to_wire(item: DesiredItem) -> link_pb2.DesiredItem:
    """Message of an item."""
    return link_pb2.DesiredItem(
        revision=item.revision,
        project=item.project,
        cell=item.cell,
        environment=item.environment,
        deployment_digest=item.deployment_digest,
        evidence=item.evidence,
        hub_state=_FROM_STATE[item.hub_state],
    )


def item_from_wire(message: link_pb2.DesiredItem) -> DesiredItem:
    """Item of a message; raises wire/bad-message. An unknown hub state is read as hold: narrower is always safe."""
    item = row_from_wire(message)
    check_key(item.key)
    if item.revision > canonical.MAX_INT:
        # It goes into audit records: one that cannot be written would be a narrowing without a record.
        raise BAD_MESSAGE(f"the desired item has revision {item.revision}, beyond 2^53")
    if len(item.evidence) > MAX_EVIDENCE:
        raise BAD_MESSAGE(f"the desired item has {len(item.evidence)} pieces of evidence")
    for digest in (item.deployment_digest, *item.evidence):
        check_digest(digest)
    return item


def row_from_wire(message: link_pb2.DesiredItem) -> DesiredItem:
    """What a message says, unbounded and unchecked: only for comparison with what the other end says, never to use."""
    return DesiredItem(
        revision=message.revision,
        project=message.project,
        cell=message.cell,
        environment=message.environment,
        deployment_digest=message.deployment_digest,
        evidence=tuple(message.evidence),
        hub_state=_TO_STATE.get(message.hub_state, "hold"),
    )


def check_key(key: names.CellKey) -> None:
    """Check project, cell and environment; raises wire/bad-message."""
    for name, limit in zip(key, _NAME_LIMITS, strict=True):
        if not names.is_name(name, limit):
            raise BAD_MESSAGE(f"the desired item names {name[:80]!r}, which is no name of at most {limit} characters")


def items_digest(items: Iterable[DesiredItem]) -> str:
    """Digest over what a set of items asks for, whatever their order and revisions; for comparison on resume."""
    rows = sorted([*item.key, item.deployment_digest, sorted(item.evidence), item.hub_state] for item in items)
    # The canonical form of all rows, put together row by row: a document has a bound, the number of items has not.
    body = b",".join(canonical.encode(row) for row in rows)
    return canonical.digest(b'{"items":[' + body + b'],"schema":"cellward.items/v1"}')


def check_digest(digest: str) -> str:
    """Return ``digest`` when it is ``sha256:<64 hex>``; raises wire/bad-message."""
    if not is_digest(digest):
        raise BAD_MESSAGE(f"{digest[:80]!r} is not a sha256 digest")
    return digest


def is_digest(text: str) -> bool:
    """Whether it is ``sha256:<64 hex>``."""
    return _DIGEST.match(text) is not None


def facts_to_wire(facts: ClusterFacts) -> types_pb2.ClusterFacts:
    """Message of facts; the name stays out, the certificate says it."""
    return types_pb2.ClusterFacts(
        uid=facts.uid,
        environments=facts.environments,
        production=facts.production,
        labels=dict(facts.labels),
        region=facts.region,
        projects=facts.projects,
    )


def facts_from_wire(name: str, message: types_pb2.ClusterFacts) -> ClusterFacts:
    """Facts of a message under the name the certificate proved; raises wire/bad-message."""
    texts = [message.uid, message.region, *message.environments, *message.projects, *message.labels]
    texts += list(message.labels.values())
    if max(len(message.environments), len(message.projects), len(message.labels)) > MAX_FACTS:
        raise BAD_MESSAGE(f"more than {MAX_FACTS} facts of one kind")
    if any(len(text) > MAX_TEXT for text in texts):
        raise BAD_MESSAGE(f"a fact is longer than {MAX_TEXT} characters")
    return ClusterFacts(
        name=name,
        uid=message.uid,
        environments=tuple(message.environments),
        production=message.production,
        labels=dict(message.labels),
        region=message.region,
        projects=tuple(message.projects),
    )


def refusal_of(error: CellwardError, *, rule: str = "", object: str = "") -> types_pb2.Refusal:  # noqa: A002
    """Message of an error (V15): code, rule, object, reason and next step."""
    return types_pb2.Refusal(
        code=error.code,
        rule=rule or error.details.get("rule", ""),
        object=object or error.details.get("object", ""),
        reason=error.message[:MAX_TEXT],
        next=error.hint[:MAX_TEXT],
    )
