"""RFC 6962 roots, written for reading: no proofs, no state beyond the right edge."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

EMPTY = hashlib.sha256(b"").digest()


def leaf(data: bytes) -> bytes:
    """Hash of a record in the tree."""
    return hashlib.sha256(b"\x00" + data).digest()


def roots_at(leaves: Iterable[bytes], sizes: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """Root of the tree at each of the given sizes that is reached, ascending."""
    wanted = sorted(set(sizes))
    stack: list[tuple[int, bytes]] = []
    position = 0
    while position < len(wanted) and wanted[position] == 0:
        yield 0, EMPTY
        position += 1
    for count, value in enumerate(leaves, start=1):
        if position == len(wanted):
            return
        height, node = 0, value
        while stack and stack[-1][0] == height:
            node = hashlib.sha256(b"\x01" + stack.pop()[1] + node).digest()
            height += 1
        stack.append((height, node))
        if count == wanted[position]:
            yield count, _collapse(stack)
            position += 1


def _collapse(stack: list[tuple[int, bytes]]) -> bytes:
    node = stack[-1][1]
    for _, left in reversed(stack[:-1]):
        node = hashlib.sha256(b"\x01" + left + node).digest()
    return node
