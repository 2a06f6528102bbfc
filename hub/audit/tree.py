"""The log's Merkle tree as tiles (C2SP tlog-tiles): hashes of every eighth level, 256 of them in a tile.

Proofs read tiles and never a record. Invariants: a full tile never changes; a partial tile only grows; the tree's right
edge in memory belongs to one size and is dropped when the store turns out to have another one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from cellward.audit.tree import (
    EMPTY_ROOT,
    HASH_SIZE,
    Node,
    Span,
    consistency_spans,
    fold,
    node_hash,
    nodes_of,
    range_spans,
    span_hash,
)
from hub.store.errors import DAMAGED
from hub.store.log import AuditStore, TileKey

#: Height of a tile in tree levels, and hashes in a full one.
HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
#: Full tiles kept in memory; 8 KiB each.
CACHED_TILES: Final = 512
#: Hashes of single subtrees kept in memory, about 150 bytes each; all are dropped when there are more.
CACHED_NODES: Final = 16_384


def tile_of(node: Node) -> tuple[TileKey, int, int]:
    """Return the tile that holds a node's hashes, the first of them, and how many there are."""
    level, inner = divmod(node.level, HEIGHT)
    first = node.number << inner
    return TileKey(level, first >> HEIGHT), first & (WIDTH - 1), 1 << inner


def root_of_tile(hashes: bytes) -> bytes:
    """Return the root over adjoining hashes whose number is a power of two."""
    layer = [hashes[at : at + HASH_SIZE] for at in range(0, len(hashes), HASH_SIZE)]
    while len(layer) > 1:
        layer = [node_hash(layer[at], layer[at + 1]) for at in range(0, len(layer), 2)]
    return layer[0]


class Edge:
    """The right edge of the tree at one size: per tile level, the hashes of the tile that is being filled."""

    __slots__ = ("partials", "size")

    def __init__(self, size: int, partials: Sequence[bytes]) -> None:
        self.size = size
        self.partials = tuple(partials)

    def root(self) -> bytes:
        """Return the root of the tree; it is made of the edge alone."""
        # Complete subtrees, smallest first: the levels from below, in each tile from its end.
        hashes: list[bytes] = []
        for partial in self.partials:
            end = len(partial)
            while end:
                count = end // HASH_SIZE
                start = end - (count & -count) * HASH_SIZE
                hashes.append(root_of_tile(partial[start:end]))
                end = start
        return fold(hashes[::-1]) if hashes else EMPTY_ROOT

    def grow(self, leaves: Iterable[bytes]) -> tuple[Edge, dict[TileKey, bytes]]:
        """Return the edge after these leaf hashes, and every tile that changed."""
        partials = [bytearray(part) for part in self.partials]
        changed: dict[TileKey, bytes] = {}
        size = self.size
        for leaf in leaves:
            size += 1
            carry, level = leaf, 0
            while True:
                if level == len(partials):
                    partials.append(bytearray())
                partials[level] += carry
                if len(partials[level]) < WIDTH * HASH_SIZE:
                    break
                full = bytes(partials[level])
                changed[TileKey(level, (size >> HEIGHT * (level + 1)) - 1)] = full
                partials[level] = bytearray()
                carry, level = root_of_tile(full), level + 1
        edge = Edge(size, [bytes(part) for part in partials])
        for key in edge_keys(size):
            if edge.partials[key.level] != (self.partials[key.level] if key.level < len(self.partials) else b""):
                changed[key] = edge.partials[key.level]
        return edge, changed


def edge_keys(size: int) -> list[TileKey]:
    """Return the keys of the partial tiles of a tree, level 0 first."""
    keys: list[TileKey] = []
    level = 0
    while size >> HEIGHT * level:
        if (size >> HEIGHT * level) % WIDTH:
            keys.append(TileKey(level, size >> HEIGHT * (level + 1)))
        level += 1
    return keys


def cut_edge(size: int, tiles: Mapping[TileKey, bytes]) -> Edge:
    """Return the right edge at ``size`` from stored tiles, which may have grown since; raises store/damaged."""
    keys = edge_keys(size)
    partials = [b""] * (1 + max((key.level for key in keys), default=-1))
    for key in keys:
        # A tile only ever grows at its end.
        length = ((size >> HEIGHT * key.level) % WIDTH) * HASH_SIZE
        partials[key.level] = tiles.get(key, b"")[:length]
        if len(partials[key.level]) != length:
            raise DAMAGED(f"tile {key.number} of level {key.level} of the audit log is not whole")
    return Edge(size, partials)


class LogTree:
    """Hashes of the stored log: reads tiles, remembers full ones."""

    def __init__(self, store: AuditStore) -> None:
        self._store = store
        self._full: OrderedDict[TileKey, bytes] = OrderedDict()
        # A complete subtree never changes, so neither does its hash.
        self._nodes: dict[Node, bytes] = {}
        # Proofs that the newest edge extends older trees: a fleet has accepted few of those.
        self._extends: tuple[Edge | None, dict[int, tuple[bytes, ...]]] = (None, {})

    async def load_edge(self, size: int) -> Edge:
        """Return the right edge of the stored tree of ``size`` leaves; raises store/damaged."""
        return cut_edge(size, await self._store.tiles(edge_keys(size)))

    async def edge_at(self, size: int, edge: Edge) -> Edge:
        """Return the right edge of an earlier size of the tree that ends at ``edge``."""
        return cut_edge(size, await self._tiles(set(edge_keys(size)), edge))

    def remember(self, tiles: Mapping[TileKey, bytes]) -> None:
        """Keep full tiles that were just written."""
        for key, data in tiles.items():
            if len(data) == WIDTH * HASH_SIZE:
                self._full[key] = data
                self._full.move_to_end(key)
        while len(self._full) > CACHED_TILES:
            self._full.popitem(last=False)

    async def range(self, first: int, last: int, edge: Edge) -> tuple[bytes, ...]:
        """Return the proof that leaves ``first`` to ``last`` are in the tree at an edge."""
        return await self._hashes(range_spans(first, last, edge.size), edge)

    async def consistency(self, old: int, edge: Edge) -> tuple[bytes, ...]:
        """Return the proof that the tree at an edge extends the one of ``old`` leaves."""
        if self._extends[0] is not edge:
            self._extends = (edge, {})
        proofs = self._extends[1]
        if old not in proofs:
            proofs[old] = await self._hashes(consistency_spans(old, edge.size), edge)
        return proofs[old]

    async def _hashes(self, spans: Sequence[Span], edge: Edge) -> tuple[bytes, ...]:
        wanted = {node for span in spans for node in nodes_of(span)}
        hashes = {node: self._nodes[node] for node in wanted & self._nodes.keys()}
        missing = wanted - hashes.keys()
        tiles = await self._tiles({tile_of(node)[0] for node in missing}, edge)
        for node in missing:
            key, first, count = tile_of(node)
            hashes[node] = root_of_tile(tiles[key][first * HASH_SIZE : (first + count) * HASH_SIZE])
        if len(self._nodes) > CACHED_NODES:
            self._nodes.clear()
        self._nodes |= hashes
        return tuple(span_hash(span, hashes.__getitem__) for span in spans)

    async def _tiles(self, keys: set[TileKey], edge: Edge) -> Mapping[TileKey, bytes]:
        found = {key: edge.partials[key.level] for key in edge_keys(edge.size) if key in keys}
        for key in keys & self._full.keys():
            found[key] = self._full[key]
            self._full.move_to_end(key)
        missing = sorted(keys - found.keys())
        if missing:
            stored = await self._store.tiles(missing)
            self.remember(stored)
            found |= stored
        return found
