"""Which 32 bytes are an Ed25519 public key worth verifying with; pure, and asked wherever one is read for that.

A point whose order divides the cofactor is nobody's key: one signature by it holds for many messages. Bytes that are
not the only encoding of their point would give one key two ids.
"""

from __future__ import annotations

from typing import Final

_P: Final = 2**255 - 19
_ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
#: The y coordinates of the eight points of small order; with either sign of x.
_SMALL_ORDER: Final = frozenset({0, 1, _P - 1, _ORDER_8, _P - _ORDER_8})


def weakness_of(raw: bytes) -> str:
    """Return why the bytes are no Ed25519 key to verify with, or an empty text; that they are a point is not asked."""
    y = int.from_bytes(raw, "little") & ((1 << 255) - 1)
    if len(raw) != 32 or y >= _P:
        return "it is not the usual encoding of a point, so it would have two ids"
    if y in _SMALL_ORDER:
        return "it is a point of small order, by which anybody signs"
    return ""
