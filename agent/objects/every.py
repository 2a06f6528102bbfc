"""Doing the same to many objects, none of which may hold up the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from cellward.errors import CellwardError

T = TypeVar("T")
R = TypeVar("R")


async def every(items: Iterable[T], act: Callable[[T], Awaitable[R]]) -> tuple[R, ...]:
    """Await ``act`` for one item after the other, whatever becomes of those before; return what came through.

    Raises the first error at the end, when everything was tried.
    """
    done: list[R] = []
    first: CellwardError | None = None
    for item in items:
        try:
            done.append(await act(item))
        except CellwardError as error:
            first = first or error
    if first is not None:
        raise first
    return tuple(done)
