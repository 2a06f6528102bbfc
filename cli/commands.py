"""The commands of ``cellward``: where each is, and the group that finds them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from importlib import import_module
from typing import Any, cast

import typer
import typer.main
from typer.core import TyperGroup
from typer.exceptions import TyperException

from cli import errors
from cli.context import command, show_error
from cli.options import OutputOption
from cli.output import Format, put, say, show_data

#: Where each command is. Imported when it is run or listed, so that a command pays for what it needs itself.
COMMANDS = {
    "init": "cli.setup:init",
    "login": "cli.setup:login",
    "apply": "cli.apply:apply",
    "delete": "cli.delete:delete",
    "hold": "cli.narrow:hold",
    "quarantine": "cli.narrow:quarantine",
    "lift": "cli.narrow:lift",
    "lock": "cli.locks:lock",
    "unlock": "cli.locks:unlock",
    "locks": "cli.locks:locks",
    "status": "cli.status:status",
    "check": "cli.check:check",
    "version": "cli.commands:version",
    "policy": "cli.policy:app",
    "author": "cli.author:app",
    "keys": "cli.keyring_list:app",
    "clusters": "cli.clusters:app",
    "cells": "cli.cells:app",
    "isolation": "cli.isolation.commands:app",
    "audit": "cli.audit:app",
    "tokens": "cli.tokens:app",
    "trust": "cli.trust:app",
}


class _Commands(Mapping[str, Any]):
    """Commands by name, each built when it is asked for."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = _build(name, COMMANDS[name])
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _build(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    found = getattr(import_module(module), attribute)
    parent = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    parent.callback()(lambda: None)
    if isinstance(found, typer.Typer):
        parent.add_typer(found, name=name)
    else:
        parent.command(name)(found)
    return cast("TyperGroup", typer.main.get_command(parent)).commands[name]


class _Group(TyperGroup):
    """Shows what cannot be understood as every other error is shown: a code, and what to do next (V15)."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = cast("MutableMapping[str, Any]", _Commands())

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Parse and run."""

        def run() -> Any:
            return super(_Group, self).main(args, prog_name, complete_var, False, windows_expand_args, **extra)

        if not standalone_mode:
            return run()
        try:
            code = run()
        except typer.Abort:
            say("aborted")
            code = 1
        except TyperException as error:
            code = error.exit_code
            # Without a text the help was shown.
            if text := error.format_message():
                context = getattr(error, "ctx", None)
                path = context.command_path if context is not None else "cellward"
                show_error(errors.BAD_OPTION(text, hint=f"See `{path} --help`."))
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    name="cellward",
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Govern cells on many clusters; releases and policy are signed here, with keys the hub never sees.",
)


@app.callback()
def _options() -> None:
    """Nothing of its own: makes the program a group of commands."""


@command
def version(output: OutputOption = Format.table) -> None:
    """Show the version of this program."""
    from cellward.version import VERSION

    if output in {Format.json, Format.yaml}:
        show_data({"version": VERSION}, output)
    else:
        put(VERSION if output is Format.table else f"version/{VERSION}")
