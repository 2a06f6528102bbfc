"""What an agent's statement key says about its own chain: a DSSE envelope over realm, uid, epoch, seq and head.

It is the half of the evidence that a hub cannot make: whoever rewrites a chain up to a signed head must break the key.
"""

from __future__ import annotations

from typing import Final

from cellward.audit.chain import ChainState
from cellward.audit.errors import BAD_CHECKPOINT
from cellward.audit.record import MAX_INT
from cellward.documents import canonical, dsse
from cellward.errors import CellwardError

#: DSSE payload type of a statement about an agent's chain.
STATEMENT_TYPE: Final = "application/vnd.cellward.audit-checkpoint.v1+json"
#: Schema of that statement.
STATEMENT_SCHEMA: Final = "cellward.audit-checkpoint/v1"
#: Largest envelope taken, bytes.
MAX_STATEMENT: Final = 8 * 1024
#: Signature scheme of statement keys.
SCHEME: Final = "ed25519"


def sign_statement(realm: str, uid: str, state: ChainState, signer: dsse.Signer) -> bytes:
    """Return the envelope in which ``signer`` says where the chain of ``uid`` stands."""
    body: canonical.JSON = {
        "schema": STATEMENT_SCHEMA,
        "realm": realm,
        "uid": uid,
        "epoch": state.epoch,
        "seq": state.seq,
        "head": state.head,
    }
    return dsse.dump_envelope(dsse.sign_document(canonical.encode(body), STATEMENT_TYPE, [signer]))


def verify_statement(data: bytes, realm: str, uid: str, spki_der: bytes) -> ChainState:
    """Return what the statement key ``spki_der`` of ``uid`` signed.

    Raises audit/bad-checkpoint: malformed, about another chain, or not signed by this key.
    """
    if len(data) > MAX_STATEMENT:
        raise BAD_CHECKPOINT(f"the statement has {len(data)} bytes, at most {MAX_STATEMENT} are taken")
    try:
        envelope = dsse.parse_envelope(data)
        body = canonical.decode(envelope.payload)
    except CellwardError as error:
        raise BAD_CHECKPOINT(f"the statement cannot be read: {error.message}") from error
    if envelope.payload_type != STATEMENT_TYPE or not isinstance(body, dict):
        raise BAD_CHECKPOINT(f"a statement of type {envelope.payload_type[:80]!r} is not a checkpoint")
    keyid = dsse.keyid_of(spki_der)
    message = dsse.pae(envelope.payload_type, envelope.payload)
    ours = [signature.sig for signature in envelope.signatures if signature.keyid == keyid]
    if not ours or not all(dsse.verify_signature(spki_der, SCHEME, message, sig) for sig in ours):
        raise BAD_CHECKPOINT(f"the statement is not signed by the statement key {keyid[:16]} of {uid}")
    return _state(body, realm, uid)


def _state(body: dict[str, canonical.JSON], realm: str, uid: str) -> ChainState:
    if body.keys() != {"schema", "realm", "uid", "epoch", "seq", "head"} or body["schema"] != STATEMENT_SCHEMA:
        raise BAD_CHECKPOINT(f"the statement is not of schema {STATEMENT_SCHEMA}")
    if body["realm"] != realm or body["uid"] != uid:
        raise BAD_CHECKPOINT("the statement is about the chain of another cluster")
    epoch, seq, head = body["epoch"], body["seq"], body["head"]
    if type(epoch) is not int or type(seq) is not int or not isinstance(head, str):
        raise BAD_CHECKPOINT("the statement has a field of the wrong type")
    if not 1 <= epoch <= MAX_INT or not 0 <= seq <= MAX_INT:
        raise BAD_CHECKPOINT("the statement has a number out of range")
    return ChainState(epoch, seq, head)
