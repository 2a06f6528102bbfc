"""Walking through a list page by page, within bounds: a hub could otherwise keep a command busy for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from cli import errors

#: Most pages and items of one list, and seconds after which no further page is asked for.
MAX_PAGES, MAX_ITEMS, MAX_SECONDS = 1000, 500_000, 300.0

_I_co = TypeVar("_I_co", covariant=True)
_T = TypeVar("_T")


class Page(Protocol[_I_co]):
    """A page of a list, as the API has them."""

    @property
    def items(self) -> Sequence[_I_co]:
        """The items."""
        ...

    @property
    def next_cursor(self) -> str:
        """Where the next page begins, empty after the last."""
        ...


def every(ask: Callable[[str], Page[_T]], *, most: int = MAX_PAGES) -> Iterator[_T]:
    """Yield every item of a list, given how to ask for the page at a cursor.

    Raises cli/bad-answer where the list leads back to a page it gave before, or does not end.
    """
    cursor, seen = "", {""}
    count, until = 0, time.monotonic() + MAX_SECONDS
    for _ in range(most):
        page = ask(cursor)
        count += len(page.items)
        if count > MAX_ITEMS or time.monotonic() > until:
            raise errors.BAD_ANSWER(f"the hub's list does not end after {MAX_ITEMS} items or {MAX_SECONDS:.0f} s")
        yield from page.items
        cursor = page.next_cursor
        if not cursor:
            return
        if cursor in seen:
            raise errors.BAD_ANSWER("the hub's list leads back to a page it gave before")
        seen.add(cursor)
    raise errors.BAD_ANSWER(f"the hub's list does not end after {most} pages")
