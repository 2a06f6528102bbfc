"""What is believed of the hub's log, one lie at a time and with batches of fixed sizes (V13)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.audit.errors import LOG_REFUSED
from agent.audit.logproof import OTHER, Proof, accept
from agent.spool.interfaces import LogView
from cellward.audit.checkpoint import Checkpoint, sign_checkpoint
from cellward.audit.tree import consistency_proof, leaf_hash, range_proof, root_of
from cellward.errors import CellwardError
from cellward.identity.keys import spki_of
from tests.fakes.refusals import refused

ORIGIN = "cellward.test/log"
KEY = Ed25519PrivateKey.generate()
LOG = [b"record %d" % number for number in range(11)]
#: The agent has seen four records, and sends the last three of nine.
SEEN, SIZE, SENT = 4, 9, 3


def proof_of(log: list[bytes], count: int, known: int, key: Ed25519PrivateKey = KEY) -> Proof:
    """Prove the last ``count`` records of a log, and that it goes on from ``known``."""
    hashes = [leaf_hash(record) for record in log]
    return Proof(
        sign_checkpoint(Checkpoint(ORIGIN, len(hashes), root_of(hashes)), key),
        len(hashes) - 1,
        range_proof(hashes, len(hashes) - count, len(hashes) - 1),
        consistency_proof(hashes, known),
    )


def view_of(size: int) -> LogView:
    """Return what an agent knows that has seen ``size`` records of the log."""
    root = root_of([leaf_hash(record) for record in LOG[:size]])
    return LogView(size, "sha256:" + root.hex() if size else "", spki_of(KEY), b"", "epoch")


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("seen", [0, 1, 4, 8, 9])
def test_an_honest_proof_is_accepted_for_every_size(count: int, seen: int) -> None:
    """Whatever was seen before, and however many records are freed: the view moves to the new head."""
    view = accept(view_of(seen), ORIGIN, LOG[SIZE - count : SIZE], proof_of(LOG[:SIZE], count, seen))
    assert (view.size, view.root, view.hub_epoch) == (SIZE, view_of(SIZE).root, "epoch")


def _shrunk() -> tuple[LogView, Proof]:
    # Everything else about it is right: the records are there, signed, and nothing contradicts a longer log.
    return view_of(10), proof_of(LOG[:SIZE], SENT, 0)


def _rewritten_before() -> tuple[LogView, Proof]:
    return view_of(SEEN), proof_of([b"something else", *LOG[1:SIZE]], SENT, SEEN)


def _same_size_other_root() -> tuple[LogView, Proof]:
    return replace(view_of(SIZE), root="sha256:" + "00" * 32), proof_of(LOG[:SIZE], SENT, SIZE)


def _first_missing() -> tuple[LogView, Proof]:
    return view_of(SEEN), proof_of([*LOG[:5], LOG[7], LOG[8]], SENT, SEEN)


def _only_the_last() -> tuple[LogView, Proof]:
    return view_of(SEEN), proof_of([*LOG[:6], b"x", b"y", LOG[8]], SENT, SEEN)


def _other_place() -> tuple[LogView, Proof]:
    good = proof_of(LOG[:SIZE], SENT, SEEN)
    return view_of(SEEN), replace(good, leaf_index=good.leaf_index - 1)


def _before_the_beginning() -> tuple[LogView, Proof]:
    return view_of(0), replace(proof_of(LOG[:SIZE], SENT, 0), leaf_index=1)


def _other_key() -> tuple[LogView, Proof]:
    return view_of(SEEN), proof_of(LOG[:SIZE], SENT, SEEN, Ed25519PrivateKey.generate())


def _endless() -> tuple[LogView, Proof]:
    good = proof_of(LOG[:SIZE], SENT, SEEN)
    return view_of(SEEN), replace(good, consistency=[*good.consistency, *[b"0" * 32] * 65])


HISTORY = {_shrunk, _rewritten_before, _same_size_other_root}
LIES = [*HISTORY, _first_missing, _only_the_last, _other_place, _before_the_beginning, _other_key, _endless]


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_v13_one_lie_is_enough(lie: Callable[[], tuple[LogView, Proof]]) -> None:
    """Each differs from an honest proof in one thing; only another history is called one."""
    view, proof = lie()
    with pytest.raises(CellwardError) as caught:
        accept(view, ORIGIN, LOG[SIZE - SENT : SIZE], proof)
    assert caught.value.code == LOG_REFUSED.code
    assert (caught.value.details.get("history") == OTHER) == (lie in HISTORY)


def test_a_log_of_another_origin_is_refused() -> None:
    """The key alone does not make it this log."""
    with refused("link/log-refused"):
        accept(view_of(SEEN), "cellward.test/other", LOG[6:SIZE], proof_of(LOG[:SIZE], SENT, SEEN))
