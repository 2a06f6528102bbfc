"""The statement key of the agent: made once at install, never certified by the hub, signs what auditors verify.

It is not the TLS key: whoever can issue certificates cannot speak in this agent's name. It is stored unencrypted (mode
0600, also where mounting its volume gave it to a group) because an agent must restart without a person; whoever reads
the agent's volume is this cluster's administrator.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from agent.audit.interfaces import RefusalText
from agent.spool.interfaces import ChainHead
from cellward.audit.chain import ChainState
from cellward.audit.receipt import RECEIPT_SCHEMA, RECEIPT_TYPE
from cellward.audit.statement import sign_statement
from cellward.documents import canonical, dsse
from cellward.runtime.files import narrow, write_atomic
from cellward.wire.text import sendable

FILE_NAME = "statement-key.pem"


class StatementKey:
    """Signs checkpoints and receipts; made by ``load_or_create``."""

    def __init__(self, signer: dsse.Ed25519Signer) -> None:
        self._signer = signer

    @classmethod
    def load_or_create(cls, directory: Path) -> StatementKey:
        """Read the key of this agent, or make it if there is none yet.

        A file that cannot be read is an error, never a reason for a new key: that would cut the chain of trust.
        """
        path = directory / FILE_NAME
        if path.exists():
            narrow(path)
            return cls(dsse.Ed25519Signer.from_pem(path.read_bytes(), None))
        signer = dsse.Ed25519Signer.generate()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, signer.to_pem(None), 0o600)
        return cls(signer)

    @property
    def keyid(self) -> str:
        """Key id, 64 hex digits."""
        return self._signer.keyid

    @property
    def spki_der(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self._signer.public_spki_der

    def checkpoint(self, realm: str, uid: str, head: ChainHead) -> bytes:
        """Return a DSSE envelope that says where this agent's chain stands."""
        return sign_statement(realm, uid, ChainState(head.epoch, head.seq, head.head), self._signer)

    def receipt(  # noqa: PLR0913 - the facts of one receipt
        self,
        *,
        realm: str,
        uid: str,
        revision: int,
        project: str,
        cell: str,
        environment: str,
        deployment_digest: str,
        accepted: bool,
        refusals: Sequence[RefusalText],
        at: datetime,
    ) -> bytes:
        """Return a DSSE envelope over the outcome of a desired item."""
        body: canonical.JSON = {
            "schema": RECEIPT_SCHEMA,
            "realm": realm,
            "uid": uid,
            "revision": revision,
            "project": project,
            "cell": cell,
            "environment": environment,
            "deploymentDigest": deployment_digest,
            "accepted": accepted,
            "refusals": [
                {
                    name: sendable(text)
                    for name, text in (
                        ("code", r.code),
                        ("rule", r.rule),
                        ("object", r.object),
                        ("reason", r.reason),
                        ("next", r.next),
                    )
                }
                for r in refusals
            ],
            "at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        return self._envelope(RECEIPT_TYPE, body)

    def _envelope(self, payload_type: str, body: canonical.JSON) -> bytes:
        return dsse.dump_envelope(dsse.sign_document(canonical.encode(body), payload_type, [self._signer]))
