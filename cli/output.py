"""Printing: data on stdout in the format asked for, everything else on stderr; no colour where nobody sees it.

The one place of the command line that writes to a terminal: whatever is printed anywhere passes ``put`` or ``say``, or
is a table, JSON or YAML made here, and what could steer a terminal is escaped in each of them. A linter rule keeps
``print`` out of the other modules, a test keeps out the rest.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cellward.documents.differences import quoted
from cellward.telemetry.terminal import escaped, escaped_json, escaped_yaml, plain

if TYPE_CHECKING:
    from pydantic import BaseModel


class Format(StrEnum):
    """Output formats."""

    table = "table"
    json = "json"
    yaml = "yaml"
    name = "name"


#: Heading and how to get its text out of an item.
Column = tuple[str, Callable[[Any], str]]


def show_list(items: Sequence[BaseModel], form: Format, columns: Sequence[Column], name: Callable[[Any], str]) -> None:
    """Print a list."""
    if form is Format.name:
        for item in items:
            put(name(item))
    elif form is Format.table:
        show_table([heading for heading, _ in columns], [[get(item) for _, get in columns] for item in items])
    else:
        show_data([item.model_dump(mode="json", by_alias=True) for item in items], form)


def show_one(item: BaseModel, form: Format, table: Callable[[], None], name: str) -> None:
    """Print one item; ``table`` prints the human form."""
    if form is Format.name:
        put(name)
    elif form is Format.table:
        table()
    else:
        show_data(item.model_dump(mode="json", by_alias=True), form)


def show_data(value: object, form: Format) -> None:
    """Print JSON or YAML."""
    if form is Format.yaml:
        _write(_yaml(value))
    else:
        _write(escaped_json(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def _yaml(value: object) -> str:
    """YAML in which a string that could steer a terminal is quoted, and escaped in its quotes."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes what has to be escaped."""

    def represent(dumper: Dumper, text: str) -> yaml.Node:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain(text) else '"')

    Dumper.add_representer(str, represent)
    return escaped_yaml(yaml.dump(value, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=float("inf")))


def show_lines(items: Sequence[BaseModel], form: Format, columns: Sequence[Column], name: Callable[[Any], str]) -> None:
    """Print items of a list that goes on: no headings again, and each item whole by itself."""
    if form is Format.table:
        show_table(
            [heading for heading, _ in columns], [[get(item) for _, get in columns] for item in items], more=True
        )
    elif form is Format.json:
        for item in items:
            put_json(item.model_dump(mode="json", by_alias=True))
    elif form is Format.yaml:
        for item in items:
            put("---")
            show_data(item.model_dump(mode="json", by_alias=True), form)
    else:
        show_list(items, form, columns, name)


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, more: bool = False) -> None:
    """Print a table; where no person looks, without colour and with whole lines. rich itself honours NO_COLOR.

    With ``more`` the headings were printed before.
    """
    cells = [[escaped(" ".join(cell.split())) for cell in row] for row in rows]
    titles = [heading.upper() for heading in headings]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
        for line in cells if more else (titles, *cells):
            put("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0), show_header=not more)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in cells:
        # As Text: neither markup nor emoji codes in a cell mean anything.
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def put(text: str = "") -> None:
    """Print one line of data."""
    _write(escaped(text) + "\n")


def put_lines(lines: Iterable[str]) -> None:
    """Print lines of data: only those that are given here, whatever is in them."""
    for line in lines:
        put(line)


def put_json(value: object) -> None:
    """Print a JSON value on one line."""
    _write(escaped_json(json.dumps(value, ensure_ascii=False)) + "\n")


def put_bytes(pieces: Iterable[bytes]) -> None:
    """Pass data on as it is; for lines that the door read, of which each is an object in printable ASCII."""
    for piece in pieces:
        sys.stdout.buffer.write(piece)


def cut(text: str, limit: int = 80) -> str:
    """Return words that somebody chose, quoted on one line in ASCII; what is longer ends with how long it is."""
    return quoted(text) if len(text) <= limit else f"{quoted(text[:limit])}... ({len(text)} characters)"


def tell(lines: Iterable[str]) -> None:
    """Tell a person lines, on stderr; one that is wider than the terminal goes on in lines that are marked.

    Else the terminal would break it, and the rest of one line could be written to look like a line of its own.
    """
    for line in lines:
        for part in folded(line):
            say(part)


def put_folded(lines: Iterable[str]) -> None:
    """Print lines of data; where a person looks, broken as :func:`tell` does it."""
    for line in lines:
        put_lines(folded(line) if sys.stdout.isatty() else [line])


def folded(line: str) -> list[str]:
    """Return a line in parts of at most the terminal's width, words whole where it can be; further ones are marked."""
    width = max(40, min(shutil.get_terminal_size((80, 24)).columns, 200))
    found = [""]
    for word in re.findall(rf"\"?[0-9A-Za-z:]{{1,{width - 8}}}|.", escaped(line)):
        if len(found[-1]) + len(word) > width:
            found.append("    | ")
        found[-1] += word
    return found


def flush() -> None:
    """Hand on what was printed."""
    sys.stdout.flush()


def say(text: str) -> None:
    """Tell a person something, on stderr. A further line is marked, so that none can pass for one of ours."""
    print("\n  | ".join(escaped(line, keep="\t") for line in text.split("\n")), file=sys.stderr)


def say_trace(error: BaseException) -> None:
    """Show where an error comes from, for whoever mends it."""
    print(escaped("".join(traceback.format_exception(error)), keep="\n\t"), end="", file=sys.stderr)


def _write(text: str) -> None:
    print(text, end="")


def short(digest: str) -> str:
    """First digits of a digest."""
    return digest.removeprefix("sha256:")[:12]
