"""Printing: data on stdout in the format asked for, everything else on stderr; no colour where nobody sees it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Format(StrEnum):
    """Output formats."""

    table = "table"
    json = "json"
    yaml = "yaml"
    name = "name"


class Shown(BaseModel):
    """Base of what a command prints of its own: in JSON and YAML named as the API names things."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)


#: Heading and how to get its text out of an item.
Column = tuple[str, Callable[[Any], str]]


def show_list(items: Sequence[BaseModel], form: Format, columns: Sequence[Column], name: Callable[[Any], str]) -> None:
    """Print a list."""
    if form is Format.name:
        for item in items:
            print(name(item))
    elif form is Format.table:
        show_table([heading for heading, _ in columns], [[get(item) for _, get in columns] for item in items])
    else:
        show_data([item.model_dump(mode="json", by_alias=True) for item in items], form)


def show_one(item: BaseModel, form: Format, table: Callable[[], None], name: str) -> None:
    """Print one item; ``table`` prints the human form."""
    if form is Format.name:
        print(name)
    elif form is Format.table:
        table()
    else:
        show_data(item.model_dump(mode="json", by_alias=True), form)


def show_data(value: object, form: Format) -> None:
    """Print JSON or YAML."""
    if form is Format.yaml:
        import yaml

        print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")
    else:
        print(json.dumps(value, indent=2, ensure_ascii=False))


def show_lines(items: Sequence[BaseModel], form: Format, columns: Sequence[Column], name: Callable[[Any], str]) -> None:
    """Print items of a list that goes on: no headings again, and each item whole by itself."""
    if form is Format.table:
        show_table(
            [heading for heading, _ in columns], [[get(item) for _, get in columns] for item in items], more=True
        )
    elif form is Format.json:
        for item in items:
            print(json.dumps(item.model_dump(mode="json", by_alias=True), ensure_ascii=False))
    elif form is Format.yaml:
        for item in items:
            print("---")
            show_data(item.model_dump(mode="json", by_alias=True), form)
    else:
        show_list(items, form, columns, name)


def show_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, more: bool = False) -> None:
    """Print a table; where no person looks, without colour and with whole lines. rich itself honours NO_COLOR.

    With ``more`` the headings were printed before.
    """
    cells = [[" ".join(printable(cell).split()) for cell in row] for row in rows]
    titles = [heading.upper() for heading in headings]
    if not sys.stdout.isatty():
        widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
        for line in cells if more else (titles, *cells):
            print("   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0), show_header=not more)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in cells:
        table.add_row(*map(escape, row))
    Console(highlight=False).print(table)


def say(text: str) -> None:
    """Tell a person something, on stderr."""
    print(printable(text), file=sys.stderr)


def printable(text: str) -> str:
    """Return text without control characters: names and reasons come from elsewhere and must not steer a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def short(digest: str) -> str:
    """First digits of a digest."""
    return digest.removeprefix("sha256:")[:12]
