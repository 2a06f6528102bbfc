"""RFC 6962: the published vectors, and everything else against a tree written naively from the RFC's definitions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cellward.audit.tree import (
    EMPTY_ROOT,
    Frontier,
    Span,
    consistency_proof,
    consistency_spans,
    inclusion_proof,
    inclusion_spans,
    leaf_hash,
    node_hash,
    nodes_of,
    range_proof,
    root_of,
    verify_consistency,
    verify_inclusion,
    verify_range,
)
from cellward.errors import CellwardError
from tests.fakes.refusals import refused

# The eight leaves of the Certificate Transparency reference implementation, and the roots of their prefixes.
LEAVES = [bytes.fromhex(text) for text in (
    "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
)]  # fmt: skip
ROOTS = [bytes.fromhex(text) for text in (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)]  # fmt: skip
INCLUSION = {  # (leaf counted from 1, size): proof
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (3, 3): ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",),
    (2, 5): (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
CONSISTENCY = {
    (1, 1): (),
    (1, 8): (
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ),
    (6, 8): (
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ),
    (2, 5): (
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ),
}
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def naive_root(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1 over leaf data."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = naive_split(len(leaves))
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def naive_split(n: int) -> int:
    """Largest power of two smaller than n."""
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def naive_path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 §2.1.1."""
    if len(leaves) == 1:
        return []
    k = naive_split(len(leaves))
    if m < k:
        return [*naive_path(m, leaves[:k]), naive_root(leaves[k:])]
    return [*naive_path(m - k, leaves[k:]), naive_root(leaves[:k])]


def naive_subproof(m: int, leaves: Sequence[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962 §2.1.2."""
    if m == len(leaves):
        return [] if whole else [naive_root(leaves)]
    k = naive_split(len(leaves))
    if m <= k:
        return [*naive_subproof(m, leaves[:k], whole=whole), naive_root(leaves[k:])]
    return [*naive_subproof(m - k, leaves[k:], whole=False), naive_root(leaves[:k])]


def data(count: int) -> list[bytes]:
    """Return distinct leaves."""
    return [b"leaf %d" % number for number in range(count)]


def test_published_roots() -> None:
    """The roots of all prefixes of the reference leaves, and of nothing."""
    assert hashlib.sha256(b"").digest() == EMPTY_ROOT == root_of([])
    assert [root_of(HASHES[:size]) for size in range(1, 9)] == ROOTS


@pytest.mark.parametrize(("leaf", "size"), INCLUSION)
def test_published_inclusion_proofs(leaf: int, size: int) -> None:
    """Made and verified as published."""
    proof = tuple(bytes.fromhex(text) for text in INCLUSION[leaf, size])
    assert inclusion_proof(HASHES[:size], leaf - 1) == proof
    verify_inclusion(HASHES[leaf - 1], leaf - 1, size, proof, ROOTS[size - 1])


@pytest.mark.parametrize(("old", "new"), CONSISTENCY)
def test_published_consistency_proofs(old: int, new: int) -> None:
    """Made and verified as published."""
    proof = tuple(bytes.fromhex(text) for text in CONSISTENCY[old, new])
    assert consistency_proof(HASHES[:new], old) == proof
    verify_consistency(old, new, ROOTS[old - 1], ROOTS[new - 1], proof)


@given(st.integers(1, 300), st.data())
def test_inclusion_as_the_rfc_defines_it(size: int, draw: st.DataObject) -> None:
    """Every proof equals PATH and holds."""
    index = draw.draw(st.integers(0, size - 1))
    leaves = data(size)
    hashes = [leaf_hash(leaf) for leaf in leaves]
    proof = inclusion_proof(hashes, index)
    assert list(proof) == naive_path(index, leaves)
    verify_inclusion(hashes[index], index, size, proof, naive_root(leaves))


@given(st.integers(1, 300), st.data())
def test_consistency_as_the_rfc_defines_it(new: int, draw: st.DataObject) -> None:
    """Every proof equals SUBPROOF and holds."""
    old = draw.draw(st.integers(1, new))
    leaves = data(new)
    proof = consistency_proof([leaf_hash(leaf) for leaf in leaves], old)
    assert list(proof) == naive_subproof(old, leaves, whole=True)
    verify_consistency(old, new, naive_root(leaves[:old]), naive_root(leaves), proof)


@given(st.integers(1, 200), st.data())
def test_v13_a_range_is_proved_whole_or_not_at_all(size: int, draw: st.DataObject) -> None:
    """V13: the proof of a range holds for exactly these leaves side by side: none missing, moved, or another one."""
    hashes = [leaf_hash(leaf) for leaf in data(size)]
    first = draw.draw(st.integers(0, size - 1))
    last = draw.draw(st.integers(first, size - 1))
    root, proof, leaves = root_of(hashes), range_proof(hashes, first, last), hashes[first : last + 1]
    verify_range(leaves, first, size, proof, root)
    assert set(range_proof(hashes, last, last)) == set(inclusion_proof(hashes, last))
    wrong = (
        (leaves[1:], first, proof),
        (leaves[:-1], first, proof),
        ([*leaves[:-1], bytes(32)], first, proof),
        (leaves, first + 1, proof),
        (leaves, first - 1, proof),
        *((leaves, first, other) for other in damaged(proof)),
    )
    for some, at, shown in wrong:
        with refused("audit/bad-proof"):
            verify_range(some, at, size, shown, root)


@given(st.integers(1, 80), st.data())
def test_damaged_proofs_do_not_hold(size: int, draw: st.DataObject) -> None:
    """V13: no hash of a proof can be changed, dropped, doubled or added, and no other leaf, place or root fits."""
    hashes = [leaf_hash(leaf) for leaf in data(size)]
    index, old = draw.draw(st.integers(0, size - 1)), draw.draw(st.integers(1, size))
    root, old_root = root_of(hashes), root_of(hashes[:old])
    included, consistent = inclusion_proof(hashes, index), consistency_proof(hashes, old)
    for proof in damaged(included):
        with refused("audit/bad-proof"):
            verify_inclusion(hashes[index], index, size, proof, root)
    for proof in damaged(consistent):
        with refused("audit/bad-proof"):
            verify_consistency(old, size, old_root, root, proof)
    wrong = bytes(32)
    for leaf, at, of, top in ((wrong, index, size, root), (hashes[index], index, size, wrong),
                              (hashes[index], size, size, root), (hashes[index], -1, size, root)):  # fmt: skip
        with refused("audit/bad-proof"):
            verify_inclusion(leaf, at, of, included, top)
    for first, second in ((wrong, root), (old_root, wrong)):
        with refused("audit/bad-proof"):
            verify_consistency(old, size, first, second, consistent)


def damaged(proof: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    """Return a proof damaged in every simple way."""
    broken = [(*proof, bytes(32)), (bytes(32), *proof)]
    for at in range(len(proof)):
        flipped = bytes([proof[at][0] ^ 1]) + proof[at][1:]
        broken += [
            (*proof[:at], *proof[at + 1 :]),
            (*proof[:at], flipped, *proof[at + 1 :]),
            (*proof[:at], proof[at][:31], *proof[at + 1 :]),
        ]
    return broken


@given(st.integers(0, 200), st.integers(0, 200))
def test_frontier_continues_where_it_was_stored(first: int, more: int) -> None:
    """The edge of a tree is enough to go on, and copies do not share state."""
    hashes = [leaf_hash(leaf) for leaf in data(first + more)]
    start = Frontier()
    for leaf in hashes[:first]:
        start.append(leaf)
    resumed, copy = Frontier(start.size, start.hashes), start.copy()
    for leaf in hashes[first:]:
        resumed.append(leaf)
    assert (resumed.size, resumed.root()) == (first + more, naive_root(data(first + more)))
    assert (copy.size, copy.root()) == (first, naive_root(data(first)))


@given(st.integers(1, 5000), st.data())
def test_spans_are_made_of_few_complete_subtrees(size: int, draw: st.DataObject) -> None:
    """What a proof reads grows with the logarithm of the tree, and its nodes cover exactly its spans."""
    index, old = draw.draw(st.integers(0, size - 1)), draw.draw(st.integers(1, size))
    for span in (*inclusion_spans(index, size), *consistency_spans(old, size), Span(0, size)):
        nodes = nodes_of(span)
        leaves = [n for node in nodes for n in range(node.number << node.level, (node.number + 1) << node.level)]
        assert leaves == list(range(span.start, span.end))
        assert len(nodes) <= size.bit_length()


def test_outside_of_the_tree() -> None:
    """Asking outside of the tree is an error with a code, not an IndexError."""
    for call in (lambda: inclusion_spans(3, 3), lambda: inclusion_spans(-1, 3), lambda: consistency_spans(4, 3),
                 lambda: Frontier(3, [bytes(32)])):  # fmt: skip
        with pytest.raises(CellwardError) as caught:
            call()
        assert caught.value.code == "audit/out-of-tree"


def test_leaves_and_nodes_are_told_apart() -> None:
    """A node cannot be passed off as a leaf: the two are hashed with different prefixes."""
    left, right = HASHES[0], HASHES[1]
    assert leaf_hash(left + right) != node_hash(left, right)
