"""The hub is stolen: four ways to make an agent run what no author wants, each refused, each undone afterwards."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cellward.documents import canonical, dsse
from cellward.documents.facts import Selector
from cellward.documents.model import Deployment, Release, build_document, parse_document
from cellward.documents.names import CellKey
from cli.home import Home
from cli.keys import load_key
from hub.store.documents import DocumentRow
from hub.store.interfaces import DesiredChange
from tools.demo.narrate import StepFailedError, wait_for
from tools.demo.scenes.main_job import deploy_next_version
from tools.demo.scenes.stolen_hub import Loot
from tools.demo.stage import IMPOSTOR, Stage
from tools.demo.summary import Summary

_CLUSTER, _PROJECT, _CELL, _ENVIRONMENT = "us-1", "boutique", "cart", "production"
_EVIL_IMAGE = "docker.io/library/busybox:1.36.1"


@dataclass(frozen=True)
class Attack:
    """One planted wish, the refusal code that must answer it, and the document that must be named (none: any)."""

    key: CellKey
    digest: str
    evidence: tuple[str, ...]
    code: str
    about: str = ""

    def answered_by(self, refusals: Sequence[Mapping[str, Any]]) -> bool:
        """Whether every refusal is the one meant, and about the document meant."""
        meant = {(self.code, self.about or refusal["object"]) for refusal in refusals}
        return bool(refusals) and {(refusal["code"], refusal["object"]) for refusal in refusals} == meant


class Theft:
    """The attacker at work against ``us-1``, and the yardstick: the workloads there do not change."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._loot = Loot(stage.hub_data, (stage.directory / "hub-passphrase").read_bytes().strip())
        trust = stage.api.get("/trust")
        self._realm: str = trust["realm"]
        self._cursor = stage.api.records()[1]

    def unsigned_release(self) -> bool:
        """A release with another image, signed with the best the hub has: its own attestation key.

        First under a Deployment that the hub signed too, which is refused already. Then as if an author had been
        tricked into signing the Deployment: nothing but the release's own signature stands in the way.
        """
        release, deployment = self._current()
        text = json.dumps(release.spec).replace(_image_of(release), _EVIL_IMAGE)
        evil = replace(release, spec=json.loads(text), version="9.9.9", issued_at=_now())
        evil_digest = self._plant(evil, [self._loot.attestation()])
        move = replace(deployment, release_digest=evil_digest, sequence=deployment.sequence + 50, issued_at=_now())
        key, code = _key(_ENVIRONMENT), "document/no-valid-signature"
        digest = self._plant(move, [self._loot.attestation()])
        by_hub = self._refused(Attack(key, digest, (evil_digest,), code, about=digest))
        signed = self._plant(replace(move, sequence=move.sequence + 1), [self._author()])
        return self._refused(Attack(key, signed, (evil_digest,), code, about=evil_digest)) and by_hub

    def older_deployment(self, older: Attack) -> bool:
        """The deployment of yesterday, truly signed, replayed after a newer one was accepted."""
        return self._refused(older)

    def relabelled_cluster(self) -> bool:
        """Telling production that it is a development cluster, with what an author signed for development only."""
        _, deployment = self._current()
        only_development = replace(
            deployment,
            environments=("development",),
            cluster_selector=Selector(all=True),
            sequence=deployment.sequence + 60,
            issued_at=_now(),
        )
        digest = self._plant(only_development, [self._author()])
        evidence = (deployment.release_digest,)
        # Its own facts say that it hosts no development, so nothing of it is even delivered (the agent would refuse
        # with cell/environment-not-here); and the document does not speak of production.
        as_development = Attack(_key("development"), digest, evidence, "cell/environment-not-here")
        as_production = Attack(_key(_ENVIRONMENT), digest, evidence, "cell/document-mismatch")
        with self._wished(as_development):
            refused = self._refused(as_production)
            made = self._stage.kubectl[_CLUSTER].list("namespaces", "cellward.dev/environment=development")
        return refused and all(one["metadata"]["name"] == IMPOSTOR for one in made)

    def unknown_field(self) -> bool:
        """A deployment that an author did sign, with a field this agent does not know."""
        _, deployment = self._current()
        newer = replace(deployment, sequence=deployment.sequence + 70, issued_at=_now())
        payload_type, payload = build_document(newer)
        body = json.loads(payload)
        body["onlyOnTuesdays"] = True
        grown = canonical.encode(body)
        digest = self._put(payload_type, grown, [self._author()], newer)
        evidence = (deployment.release_digest,)
        return self._refused(Attack(_key(_ENVIRONMENT), digest, evidence, "document/unknown-field"))

    def remember_current(self) -> Attack:
        """What is accepted now, to be replayed once it is old."""
        digest, evidence = self._desired(_key(_ENVIRONMENT))
        return Attack(_key(_ENVIRONMENT), digest, evidence, "document/older-sequence")

    # -- planting and judging ---------------------------------------------------------------------------------------

    def _refused(self, attack: Attack) -> bool:
        """Deliver a wish and judge by outcome: refused with the code meant, recorded, and nothing changed."""
        before = self._running()
        with self._loot.invited_for(_CLUSTER, attack.key.environment), self._wished(attack):
            # The receipt and the state of the cell are kept one after the other: what is said of the wish before goes.
            refusals = wait_for("us-1 to refuse as meant", lambda: self._refusals(attack), 30, self._stage.narrator)
            for refusal in refusals:
                self._stage.narrator.step(f"us-1 says: {refusal['reason']} [{refusal['code']}]")
            recorded = wait_for("the refusal to be recorded", lambda: self._recorded(attack), 30, self._stage.narrator)
        return recorded and self._running() == before

    @contextmanager
    def _wished(self, attack: Attack) -> Iterator[None]:
        honest = self._desired_or_none(attack.key)
        self._loot.desire(DesiredChange(_CLUSTER, attack.key, attack.digest, attack.evidence))
        try:
            yield
        finally:
            if honest is not None:
                self._loot.desire(DesiredChange(_CLUSTER, attack.key, *honest))
            else:
                with self._loot.database() as database:
                    for table in ("desired", "receipts", "statuses"):
                        database.execute(
                            f"DELETE FROM {table} WHERE cluster=? AND project=? AND cell=? AND environment=?",  # noqa: S608 - a constant
                            (_CLUSTER, *attack.key),
                        )

    def _refusals(self, attack: Attack) -> list[dict[str, Any]] | None:
        for state in self._stage.api.cell_states(_CLUSTER, attack.key[1]):
            same = state["environment"] == attack.key[2] and state["desiredDigest"] == attack.digest
            found: list[dict[str, Any]] = state["refusals"]
            if same and state["acknowledged"] is False and attack.answered_by(found):
                return found
        return None

    def _recorded(self, attack: Attack) -> bool:
        records, _ = self._stage.api.records(self._cursor)
        for record in records:
            refused = record["decision"] in {"deny", "finding"} and record["code"] == attack.code
            if record["cluster"] == _CLUSTER and refused:
                details = json.loads(base64.b64decode(record["record"]))["details"]
                if details.get("deploymentDigest") == attack.digest:
                    return True
        return False

    def _running(self) -> list[Any]:
        kube = self._stage.kubectl[_CLUSTER]
        found = kube.list("deployments,statefulsets", f"cellward.dev/project={_PROJECT}")
        return sorted((one["metadata"]["namespace"], one["metadata"]["name"], json.dumps(one["spec"])) for one in found)

    # -- documents --------------------------------------------------------------------------------------------------

    def _current(self) -> tuple[Release, Deployment]:
        digest, _ = self._desired(_key(_ENVIRONMENT))
        deployment = self._document(digest)
        if not isinstance(deployment, Deployment):
            raise StepFailedError(f"{digest} is not a deployment")
        release = self._document(deployment.release_digest)
        if not isinstance(release, Release):
            raise StepFailedError(f"{deployment.release_digest} is not a release")
        return release, deployment

    def _document(self, digest: str) -> object:
        envelope = dsse.parse_envelope(base64.b64decode(self._stage.api.get(f"/documents/{digest}")["envelope"]))
        return parse_document(envelope.payload_type, envelope.payload)

    def _plant(self, document: Release | Deployment, signers: Sequence[dsse.Signer]) -> str:
        payload_type, payload = build_document(document)
        return self._put(payload_type, payload, signers, document)

    def _put(
        self, payload_type: str, payload: bytes, signers: Sequence[dsse.Signer], document: Release | Deployment
    ) -> str:
        envelope = dsse.sign_document(payload, payload_type, signers)
        self._loot.plant(
            DocumentRow(envelope.digest, f"planted-{document.kind}", dsse.dump_envelope(envelope), document.project)
        )
        return envelope.digest

    def _author(self) -> dsse.Ed25519Signer:
        return load_key(Home(self._stage.home), "author", None)

    def _desired(self, key: CellKey) -> tuple[str, tuple[str, ...]]:
        found = self._desired_or_none(key)
        if found is None:
            raise StepFailedError(f"nothing is desired for {key}")
        return found

    def _desired_or_none(self, key: CellKey) -> tuple[str, tuple[str, ...]] | None:
        with self._loot.database() as database:
            row = database.execute(
                "SELECT deployment_digest, evidence FROM desired"
                " WHERE cluster=? AND project=? AND cell=? AND environment=?",
                (_CLUSTER, *key),
            ).fetchone()
        return (row[0], tuple(json.loads(row[1]))) if row is not None else None


def stolen_hub(stage: Stage, summary: Summary) -> None:
    """Try everything; each is judged by what us-1 runs afterwards."""
    narrator = stage.narrator
    theft = Theft(stage)
    older = theft.remember_current()
    tries = (
        ("unsigned_release_refused", "a release no author signed", theft.unsigned_release),
        ("relabelled_cluster_refused", "production configured as if it were development", theft.relabelled_cluster),
        ("unknown_field_refused", "a signed document with a field the agent does not know", theft.unknown_field),
        ("older_deployment_refused", "an older deployment after a newer one", lambda: _replay(stage, theft, older)),
    )
    for key, what, attempt in tries:
        with narrator.guarded(what):
            held = attempt()
            summary.put(key, held)
            narrator.verdict(held, f"{what}: refused, recorded, nothing changed", f"{what}: not refused as it must be")


def _replay(stage: Stage, theft: Theft, older: Attack) -> bool:
    """Accept a newer deployment first, then replay the older one."""
    deploy_next_version(stage, older.key.cell, _CLUSTER)
    if theft.remember_current().digest == older.digest:
        raise StepFailedError("a second apply did not lead to a newer deployment")
    return theft.older_deployment(older)


def _key(environment: str) -> CellKey:
    return CellKey(_PROJECT, _CELL, environment)


def _now() -> datetime:
    return datetime.now(UTC)


def _image_of(release: Release) -> str:
    components = release.spec["components"]
    if not isinstance(components, dict):
        raise StepFailedError("the release has no components")
    for component in components.values():
        if isinstance(component, dict) and isinstance(component.get("image"), str):
            return str(component["image"])
    raise StepFailedError("no component has an image")
