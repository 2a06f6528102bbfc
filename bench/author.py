"""What a person or CI does on the hub, in one process so that it can be timed from the first byte of the upload.

Signing happens before the clock starts; the CLI does the same but would add the start of a Python process.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cellward.api import schemas
from cellward.cells.load import load_manifests
from cellward.cells.resolve import resolve_cells
from cellward.documents.dsse import Ed25519Signer, Envelope, dump_envelope, sign_document
from cellward.documents.facts import Selector
from cellward.documents.model import Deployment, Release, build_document
from cellward.policy import publisher
from cellward.policy.bundle import build_bundle, read_bundle
from cellward.policy.model import Binding, BindingSet
from cellward.policy.record import Record
from cellward.policy.trust import digest_of
from cli.home import Home
from cli.keys import load_key
from cli.records import DEFAULT_RECORD

_ROOT = Path(__file__).resolve().parents[1]
_BUNDLE = _ROOT / "policies/starter"


class Author:
    """Holds the keys of an evaluation installation and makes what is uploaded."""

    def __init__(self, home: Path, environment: str, scratch: Path) -> None:
        self._home = Home(home)
        self._trust = self._home.trust()
        self._environment = environment
        self._scratch = scratch
        self._sequence = 0
        self._bundle = 0
        self._record = Record.from_bytes(self._home.file(DEFAULT_RECORD).read_bytes(), root=self.root_file.read_bytes())

    @property
    def realm(self) -> str:
        """Realm of the installation."""
        return self._trust.realm

    @property
    def root_file(self) -> Path:
        """The first TUF root."""
        return self._trust.root_file

    def deployment(self, manifest: str) -> tuple[str, bytes]:
        """Sign the next release of the one cell in a manifest, with its Deployment to every cluster it may go to.

        Returns:
            The Deployment's digest and the body of ``POST /documents``.
        """
        self._sequence += 1
        key = load_key(self._home, "author", None)
        cells = load_manifests(manifest, "bench").cells
        (project, cell), spec = next(iter(resolve_cells(list(cells), {}).items()))
        issued = datetime.now(UTC).replace(microsecond=0)
        version = f"0.0.{self._sequence}"
        values: dict[str, Any] = {**spec, "version": version}
        release = _sign(
            Release(
                realm=self.realm, project=project, cell=cell, version=version, owner=str(spec.get("owner", "")),
                spec=values, issued_at=issued,
            ),
            key,
        )  # fmt: skip
        deployment = _sign(
            Deployment(
                realm=self.realm, project=project, cell=cell, environments=(self._environment,),
                release_digest=release.digest, sequence=self._sequence, issued_at=issued,
                not_after=issued + timedelta(days=1), cluster_selector=Selector(environments=(self._environment,)),
                rollout={},
            ),
            key,
        )  # fmt: skip
        return deployment.digest, _upload(release, deployment)

    def version(self, project: str, cell: str, *, size: int) -> tuple[bytes, bytes]:
        """Sign the next version of a cell whose spec nobody looks into, ``size`` bytes: a Release and a Deployment."""
        self._sequence += 1
        key = self._author_key()
        issued = datetime.now(UTC).replace(microsecond=0)
        version = f"0.0.{self._sequence}"
        release = _sign(
            Release(
                realm=self.realm, project=project, cell=cell, version=version, owner="bench",
                spec={"version": version, "text": "x" * size}, issued_at=issued,
            ),
            key,
        )  # fmt: skip
        deployment = _sign(
            Deployment(
                realm=self.realm, project=project, cell=cell, environments=(self._environment,),
                release_digest=release.digest, sequence=self._sequence, issued_at=issued,
                not_after=issued + timedelta(days=1), cluster_selector=Selector(environments=(self._environment,)),
                rollout={},
            ),
            key,
        )  # fmt: skip
        return dump_envelope(release), dump_envelope(deployment)

    @staticmethod
    def upload(envelopes: Sequence[bytes]) -> bytes:
        """Return the body of ``POST /documents`` for envelopes."""
        return schemas.DocumentUpload(envelopes=list(envelopes)).model_dump_json(by_alias=True).encode()

    @functools.cache  # noqa: B019 - there is one author
    def _author_key(self) -> Ed25519Signer:
        return load_key(self._home, "author", None)

    def publication(self) -> tuple[int, bytes]:
        """Sign a policy set with a new version of the starter bundle.

        Returns:
            The snapshot's version and the body of ``POST /policy/publications``.
        """
        self._bundle += 1
        archive = self._build(f"1.0.{self._bundle}")
        bundle = read_bundle(archive)
        binding = Binding("bench", bundle.target_path, bundle.digest, Selector(environments=(self._environment,)))
        policy, keyring, publishing = (load_key(self._home, name, None) for name in ("policy", "keyring", "publisher"))
        publication = publisher.publish(
            self._record,
            bundles=[archive],
            bindings=BindingSet(self.realm, (binding,)),
            keys=publisher.SigningKeys(policy=(policy,), keyring=(keyring,), publisher=(publishing,)),
            now=datetime.now(UTC),
        )
        assert publication.record is not None
        self._record = publication.record
        body = schemas.Publication(
            metadata=[schemas.MetadataFile(role=f.role, version=f.version, data=f.data) for f in publication.metadata],
            targets=[schemas.TargetFile(digest=digest_of(d), data=d) for d in publication.targets.values()],
        )
        version = next(file.version for file in publication.metadata if file.role == "snapshot")
        return version, body.model_dump_json(by_alias=True).encode()

    def _build(self, version: str) -> bytes:
        place = self._scratch / version
        shutil.copytree(_BUNDLE, place)
        manifest = json.loads((place / ".manifest").read_text())
        manifest["revision"] = manifest["metadata"]["cellward"]["version"] = version
        (place / ".manifest").write_text(json.dumps(manifest))
        return build_bundle(place)


def _sign(document: Release | Deployment, signer: Ed25519Signer) -> Envelope:
    payload_type, payload = build_document(document)
    return sign_document(payload, payload_type, (signer,))


def _upload(*envelopes: Envelope) -> bytes:
    body = schemas.DocumentUpload(envelopes=[dump_envelope(envelope) for envelope in envelopes])
    return body.model_dump_json(by_alias=True).encode()
