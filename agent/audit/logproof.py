"""What the agent accepts as proof that its records are in the hub's log. Pure: the next view or a refusal comes out.

Invariants: a view only ever grows, and each is proved to contain the one before (the hub cannot show two histories to
one agent); the key is the one pinned at first contact; nothing about the proof comes from the record itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.audit.errors import LOG_REFUSED
from agent.spool.interfaces import LogView
from cellward.audit import checkpoint, tree
from cellward.errors import CellwardError
from cellward.wire.bounds import MAX_CHECKPOINT

#: Hashes in one proof at most: a log of 2^64 leaves needs no more.
MAX_PROOF = 64
#: Detail ``history`` of a refusal: this is not the log that was seen before.
OTHER = "other"
_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class Proof:
    """What an acknowledgement says besides the sequence number; ``leaf_index`` is that of the last record."""

    note: bytes
    leaf_index: int
    range_proof: Sequence[bytes]
    consistency: Sequence[bytes]


def accept(view: LogView, origin: str, records: Sequence[bytes], proof: Proof) -> LogView:
    """Return the new view when all of ``records`` are proved to stand in a log that extends ``view``.

    Args:
        view: the last accepted checkpoint, with the pinned key.
        origin: origin line of the log, derived from the realm.
        records: exact bytes of every record that is to be freed; a log that kept only the last one proves nothing.
        proof: from the acknowledgement.

    Raises:
        CellwardError: ``link/log-refused``.
    """
    if len(proof.range_proof) > 2 * MAX_PROOF or len(proof.consistency) > MAX_PROOF:
        raise LOG_REFUSED("the proof is longer than any tree needs")
    try:
        head = checkpoint.verify_checkpoint(proof.note, origin, view.key_spki)
        if head.size < view.size:
            raise LOG_REFUSED(f"the log shrank from {view.size} to {head.size} records", history=OTHER)
        first = proof.leaf_index - len(records) + 1
        leaves = [tree.leaf_hash(record) for record in records]
        tree.verify_range(leaves, first, head.size, proof.range_proof, head.root)
        _check_history(view, head, proof)
        # What others signed beside the log is not kept: the note is repeated to every hub, and none takes a longer one.
        note = checkpoint.only_of(proof.note, view.key_spki)
        if len(note) > MAX_CHECKPOINT:
            raise LOG_REFUSED(f"the checkpoint has {len(note)} bytes, at most {MAX_CHECKPOINT} are kept")
    except CellwardError as error:
        if error.code == LOG_REFUSED.code:
            raise
        raise LOG_REFUSED(error.message, cause=error.code) from error
    return LogView(head.size, _PREFIX + head.root.hex(), view.key_spki, note, view.hub_epoch)


def _check_history(view: LogView, head: checkpoint.Checkpoint, proof: Proof) -> None:
    if not view.size:
        return
    old_root = bytes.fromhex(view.root.removeprefix(_PREFIX))
    try:
        tree.verify_consistency(view.size, head.size, old_root, head.root, proof.consistency)
    except CellwardError as error:
        text = f"the log of {head.size} records does not go on from the {view.size} that were seen: {error.message}"
        raise LOG_REFUSED(text, history=OTHER) from error
