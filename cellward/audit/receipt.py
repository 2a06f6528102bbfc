"""An agent's signed word about what became of a desired item: read strictly, and checked by its statement key. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cellward.audit.errors import BAD_RECEIPT
from cellward.documents import canonical, dsse
from cellward.errors import CellwardError

#: DSSE payload type and schema.
RECEIPT_TYPE: Final = "application/vnd.cellward.receipt.v1+json"
RECEIPT_SCHEMA: Final = "cellward.receipt/v1"
#: Largest envelope taken, bytes.
MAX_RECEIPT: Final = 64 * 1024
_SCHEME: Final = "ed25519"
_TEXTS: Final = ("project", "cell", "environment", "deploymentDigest")


@dataclass(frozen=True, slots=True)
class ReceiptStatement:
    """What an agent signed about one item."""

    project: str
    cell: str
    environment: str
    deployment_digest: str
    accepted: bool
    revision: int


def verify_receipt(data: bytes, realm: str, uid: str, spki_der: bytes, keyid: str) -> ReceiptStatement:
    """Return what the statement key ``keyid`` of ``uid`` signed; ``spki_der`` is that key, from wherever.

    Raises audit/bad-receipt: malformed, of another cluster or realm, or not signed by this key.
    """
    if len(data) > MAX_RECEIPT:
        raise BAD_RECEIPT(f"the receipt has {len(data)} bytes, at most {MAX_RECEIPT} are taken")
    try:
        if dsse.keyid_of(spki_der) != keyid:
            raise BAD_RECEIPT("the key given is not the endorsed one")
        envelope = dsse.parse_envelope(data)
        body = canonical.decode(envelope.payload)
    except CellwardError as error:
        raise BAD_RECEIPT(f"the receipt cannot be read: {error.message}") from error
    if envelope.payload_type != RECEIPT_TYPE or not isinstance(body, dict):
        raise BAD_RECEIPT(f"a statement of type {envelope.payload_type[:80]!r} is not a receipt")
    message = dsse.pae(envelope.payload_type, envelope.payload)
    ours = [signature.sig for signature in envelope.signatures if signature.keyid == keyid]
    if not ours or not all(dsse.verify_signature(spki_der, _SCHEME, message, sig) for sig in ours):
        raise BAD_RECEIPT(f"the receipt is not signed by the statement key {keyid[:16]} of {uid}")
    if body.get("schema") != RECEIPT_SCHEMA or body.get("realm") != realm or body.get("uid") != uid:
        raise BAD_RECEIPT("the receipt is of another schema, realm or cluster")
    texts = [body.get(name) for name in _TEXTS]
    accepted, revision = body.get("accepted"), body.get("revision")
    if not all(isinstance(text, str) for text in texts) or type(accepted) is not bool or type(revision) is not int:
        raise BAD_RECEIPT("the receipt has a field of the wrong type")
    project, cell, environment, digest = (str(text) for text in texts)
    return ReceiptStatement(project, cell, environment, digest, accepted, revision)
