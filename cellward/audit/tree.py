"""The Merkle tree of RFC 6962: hashes, roots, inclusion and consistency proofs, and an incremental right edge.

Proofs are made from *ranges*: a proof is a list of half-open leaf ranges, each of which is a union of at most log2(n)
complete subtrees. So a log that stores hashes of complete subtrees (tiles) answers without reading a record, and a
naive caller answers from the leaves. Invariants: leaf and node hashes are domain-separated (0x00, 0x01); the root of
nothing is SHA-256 of nothing; every hash is 32 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import NamedTuple

from cellward.audit.errors import BAD_PROOF, OUT_OF_TREE

#: Length of a hash, bytes.
HASH_SIZE = 32
#: Root of the empty tree.
EMPTY_ROOT = sha256(b"").digest()


class Node(NamedTuple):
    """A complete subtree: ``2**level`` leaves from ``number * 2**level`` on."""

    level: int
    number: int


class Span(NamedTuple):
    """Leaves from ``start`` up to, without, ``end``."""

    start: int
    end: int


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf, SHA-256(0x00 ‖ data)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node, SHA-256(0x01 ‖ left ‖ right)."""
    return sha256(b"\x01" + left + right).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf *hashes*."""
    frontier = Frontier()
    for leaf in leaves:
        frontier.append(leaf)
    return frontier.root()


class Frontier:
    """The right edge of a growing tree: hashes of its complete subtrees, largest first, at most 64 of them.

    Args:
        size: number of leaves so far.
        hashes: hashes of the complete subtrees of ``nodes_of(Span(0, size))``, in that order.
    """

    __slots__ = ("_hashes", "_size")

    def __init__(self, size: int = 0, hashes: Iterable[bytes] = ()) -> None:
        self._size = size
        self._hashes = list(hashes)
        if len(self._hashes) != size.bit_count():
            raise OUT_OF_TREE(f"a tree of {size} leaves has {size.bit_count()} complete subtrees on its edge")

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """Hashes of the complete subtrees, largest first."""
        return tuple(self._hashes)

    def append(self, leaf: bytes) -> None:
        """Add a leaf hash."""
        size = self._size
        while size & 1:
            leaf = node_hash(self._hashes.pop(), leaf)
            size >>= 1
        self._hashes.append(leaf)
        self._size += 1

    def root(self) -> bytes:
        """Return the root of the tree so far."""
        return fold(self._hashes) if self._hashes else EMPTY_ROOT

    def copy(self) -> Frontier:
        """Return an independent copy."""
        return Frontier(self._size, self._hashes)


def fold(hashes: Sequence[bytes]) -> bytes:
    """Return the hash over adjoining complete subtrees, largest first: the hash of the span they make."""
    result = hashes[-1]
    for left in reversed(hashes[:-1]):
        result = node_hash(left, result)
    return result


def nodes_of(span: Span) -> tuple[Node, ...]:
    """Return the complete subtrees a span of a proof is made of, left to right.

    Defined for the spans proofs are made of: their start is a multiple of the largest power of two not above their
    length.
    """
    nodes: list[Node] = []
    start, end = span
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return tuple(nodes)


def inclusion_spans(index: int, size: int) -> tuple[Span, ...]:
    """Return the spans whose hashes prove leaf ``index`` in a tree of ``size``, lowest first (RFC 6962 §2.1.1)."""
    if not 0 <= index < size:
        raise OUT_OF_TREE(f"leaf {index} is not in a tree of {size}", index=index, size=size)
    spans: list[Span] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start = middle
    return tuple(reversed(spans))


def range_spans(first: int, last: int, size: int) -> tuple[Span, ...]:
    """Return the spans whose hashes prove leaves ``first`` to ``last`` (both included) in a tree of ``size``.

    They are the subtrees of the RFC 6962 tree that the range does not touch, left to right; for one leaf the same as an
    inclusion proof in another order.
    """
    if not 0 <= first <= last < size:
        raise OUT_OF_TREE(f"leaves {first} to {last} are not in a tree of {size}", index=last, size=size)
    spans: list[Span] = []
    waiting = [Span(0, size)]
    while waiting:
        span = waiting.pop()
        if span.end <= first or last < span.start:
            spans.append(span)
        elif not (first <= span.start and span.end <= last + 1):
            middle = span.start + _split(span.end - span.start)
            waiting += [Span(middle, span.end), Span(span.start, middle)]
    return tuple(spans)


def consistency_spans(old: int, new: int) -> tuple[Span, ...]:
    """Return the spans whose hashes prove that a tree of ``new`` extends one of ``old`` (RFC 6962 §2.1.2)."""
    if not 0 <= old <= new:
        raise OUT_OF_TREE(f"a tree of {new} cannot extend one of {old}", old=old, new=new)
    if old in (0, new):
        return ()
    spans: list[Span] = []
    start, end, whole = 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            spans.append(Span(middle, end))
            end = middle
        else:
            spans.append(Span(start, middle))
            start, whole = middle, False
    if not whole:
        spans.append(Span(start, end))
    return tuple(reversed(spans))


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Return the inclusion proof of a leaf from all leaf hashes."""
    return tuple(root_of(leaves[a:b]) for a, b in inclusion_spans(index, len(leaves)))


def range_proof(leaves: Sequence[bytes], first: int, last: int) -> tuple[bytes, ...]:
    """Return the proof of a range of leaves from all leaf hashes."""
    return tuple(root_of(leaves[a:b]) for a, b in range_spans(first, last, len(leaves)))


def consistency_proof(leaves: Sequence[bytes], old: int) -> tuple[bytes, ...]:
    """Return the consistency proof from the first ``old`` leaf hashes to all of them."""
    return tuple(root_of(leaves[a:b]) for a, b in consistency_spans(old, len(leaves)))


def span_hash(span: Span, node: Callable[[Node], bytes]) -> bytes:
    """Return the hash of a span from the hashes of complete subtrees."""
    return fold([node(part) for part in nodes_of(span)])


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that leaf hash ``leaf`` is leaf ``index`` of the tree of ``size`` with ``root``; raises audit/bad-proof."""
    if not 0 <= index < size:
        raise BAD_PROOF(f"leaf {index} cannot be in a tree of {size}")
    # RFC 9162 §2.1.3.2: fn is our node, sn the last node, on the level the proof has reached.
    fn, sn, result = index, size - 1, leaf
    for hash_ in proof:
        if sn == 0 or len(hash_) != HASH_SIZE:
            raise BAD_PROOF(f"the inclusion proof of leaf {index} in a tree of {size} has the wrong length")
        if fn & 1 or fn == sn:
            result = node_hash(hash_, result)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            result = node_hash(result, hash_)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0 or result != root:
        raise BAD_PROOF(f"leaf {index} is not in the tree of {size} with this root")


def verify_range(leaves: Sequence[bytes], first: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that leaf hashes stand side by side from index ``first`` on in the tree; raises audit/bad-proof.

    Unlike the inclusion of the last one, this says of every record that it is there.
    """
    last = first + len(leaves) - 1
    if not leaves or not 0 <= first <= last < size or any(len(hash_) != HASH_SIZE for hash_ in (*leaves, *proof)):
        raise BAD_PROOF(f"leaves {first} to {last} cannot be in a tree of {size}")
    spans = range_spans(first, last, size)
    outside = dict(zip(spans, proof, strict=False))

    def hash_of(span: Span) -> bytes:
        if span in outside:
            return outside[span]
        if span.end - span.start == 1:
            return leaves[span.start - first]
        middle = span.start + _split(span.end - span.start)
        return node_hash(hash_of(Span(span.start, middle)), hash_of(Span(middle, span.end)))

    if len(proof) != len(spans) or hash_of(Span(0, size)) != root:
        raise BAD_PROOF(f"leaves {first} to {last} are not side by side in the tree of {size} with this root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of ``new`` leaves with ``new_root`` extends that of ``old``; raises audit/bad-proof."""
    holds = False
    if 0 <= old <= new and all(len(hash_) == HASH_SIZE for hash_ in proof):
        if old in (0, new):
            holds = not proof and old_root == (new_root if old else EMPTY_ROOT)
        else:
            holds = _roots_along(old, new, old_root, proof) == (old_root, new_root)
    if not holds:
        raise BAD_PROOF(f"the tree of {new} does not extend the tree of {old}", old=old, new=new)


def _roots_along(old: int, new: int, old_root: bytes, proof: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Return both roots that a consistency proof leads to (RFC 9162 §2.1.4.2), None when its length is wrong."""
    # A tree of a power of two is itself the first node of the path.
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        return None
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    from_old = from_new = path[0]
    for hash_ in path[1:]:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            from_old, from_new = node_hash(hash_, from_old), node_hash(hash_, from_new)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            from_new = node_hash(from_new, hash_)
        fn, sn = fn >> 1, sn >> 1
    return (from_old, from_new) if sn == 0 else None


def _split(count: int) -> int:
    """Return the largest power of two below ``count``."""
    return 1 << ((count - 1).bit_length() - 1)
