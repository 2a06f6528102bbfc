"""Makes the golden vectors: fixed keys, fixed times, so the same bytes every time.

Run ``python -m tests.vectors.generate`` after a deliberate change of a format, read the difference, and commit it
together with the reason. A format that is already in use changes only under a new schema id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cellward.cells.gate import StartGate
from cellward.cells.load import CellManifest, load_manifests
from cellward.cells.render import render
from cellward.cells.resolve import resolve_cells
from cellward.cells.spec import build_release
from cellward.cells.stamps import PLACEHOLDER
from cellward.documents import canonical, dsse
from cellward.documents.facts import ClusterFacts, Selector
from cellward.documents.keyring import Keyring, KeyringEntry
from cellward.documents.model import (
    Approval,
    ClusterEndorsement,
    Deployment,
    Document,
    Release,
    Tombstone,
    build_document,
)

GOLDEN = Path(__file__).parent / "golden"
BOUTIQUE = Path(__file__).parents[2] / "examples" / "boutique"
REALM = "sha256:" + "5" * 64
ISSUED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
UNTIL = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
GATE = StartGate("cellward.local/agent@sha256:" + "0" * 64, ("10.96.0.1", 443))
FACTS = ClusterFacts(
    name="eu-1",
    uid="0b9b2f4e-6a0f-4a36-9d59-3c8a7f0d1e22",
    environments=("development", "production"),
    production=False,
    labels={"tier": "edge"},
    region="eu-west",
    projects=("boutique",),
)


def signer(number: int) -> dsse.Ed25519Signer:
    """Return the test key of a number; never use one of these for anything else."""
    return dsse.Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


def entry(number: int, owner: str) -> KeyringEntry:
    """Return a keyring entry that may sign everything."""
    key = signer(number)
    return KeyringEntry(
        keyid=key.keyid,
        scheme=key.scheme,
        spki_der=key.public_spki_der,
        owner=owner,
        kinds=("approval", "cluster", "deployment", "release", "tombstone"),
        projects=("*",),
        environments=("*",),
        not_before=ISSUED,
        not_after=UNTIL,
    )


def boutique() -> list[CellManifest]:
    """Return the cells of the example."""
    files = sorted(BOUTIQUE.glob("*.yaml"))
    return [cell for file in files for cell in load_manifests(file.read_bytes(), file.name).cells]


def boutique_releases() -> dict[str, Release]:
    """Return the example's releases by cell."""
    cells = boutique()
    specs = resolve_cells(cells, {})
    return {
        item.cell.metadata.name: build_release(item.cell, specs[item.key], realm=REALM, issued_at=ISSUED)
        for item in cells
    }


def documents() -> dict[str, Document]:
    """Return one document of every kind, by file name."""
    release = boutique_releases()["cart"]
    digest = canonical.digest(build_document(release)[1])
    deployment = Deployment(
        realm=REALM, project="boutique", cell="cart", environments=("development", "production"),
        release_digest=digest, sequence=7, issued_at=ISSUED, not_after=UNTIL,
        cluster_selector=Selector(production=False, labels={"tier": "edge"}), rollout={"deadlineSeconds": 300},
        fallback=digest, confirm_prune=2, requires=("rollout/deadline",),
    )  # fmt: skip
    return {
        "release": release,
        "deployment": deployment,
        "approval": Approval(
            realm=REALM, project="boutique", deployment_digest=canonical.digest(build_document(deployment)[1]),
            environment="production", issued_at=ISSUED, not_after=UNTIL,
        ),
        "tombstone": Tombstone(
            realm=REALM, project="boutique", cell="cart", environments=("development",), sequence=8,
            delete_data=False, issued_at=ISSUED, not_after=UNTIL,
        ),
        "cluster": ClusterEndorsement(
            realm=REALM, name=FACTS.name, uid=FACTS.uid, facts=FACTS, statement_keyid=signer(9).keyid,
            issued_at=ISSUED, not_after=UNTIL,
        ),
    }  # fmt: skip


def generate() -> Mapping[str, bytes]:
    """Return every vector: file name to bytes."""
    files: dict[str, bytes] = {}
    for name, document in documents().items():
        payload_type, payload = build_document(document)
        envelope = dsse.sign_document(payload, payload_type, [signer(1), signer(2)])
        files[f"{name}.payload.json"] = payload
        files[f"{name}.envelope.json"] = dsse.dump_envelope(envelope)
    keyring = Keyring(REALM, 3, (entry(1, "team-cart"), entry(2, "security")))
    files["keyring.json"] = canonical.encode(keyring.to_json())
    for cell, release in boutique_releases().items():
        rendered = render(release, FACTS, "development", PLACEHOLDER)
        objects = [rendered.namespace_object, *rendered.isolation, *rendered.objects]
        files[f"boutique-{cell}.objects.json"] = (json.dumps(objects, indent=1) + "\n").encode()
    gated = render(boutique_releases()["cart"], FACTS, "development", PLACEHOLDER, GATE)
    files["boutique-cart.gated.json"] = (json.dumps(list(gated.objects), indent=1) + "\n").encode()
    return files


def main() -> None:
    """Write the vectors."""
    GOLDEN.mkdir(exist_ok=True)
    for name, data in generate().items():
        (GOLDEN / name).write_bytes(data)


if __name__ == "__main__":
    main()
