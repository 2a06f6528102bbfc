"""The entry point ``cellward``: puts the nouns together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from cli import (
    apply,
    audit,
    author,
    cells,
    check,
    clusters,
    decommission,
    delete,
    endorse,
    errors,
    keyring_list,
    locks,
    narrow,
    policy,
    revocations,
    setup,
    status,
    tokens,
    trust,
)
from cli.context import OutputOption, command, show_error
from cli.output import Format, put, say, show_data


class _Group(TyperGroup):
    """Tells what cannot be understood as everything else is told: a code, and what to do next (V15)."""

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
    help="Govern cells on many clusters; what widens anything is signed here, with keys the hub never sees.",
)
app.command()(setup.init)
app.command()(setup.login)
app.command()(apply.apply)
app.command()(delete.delete)
app.command()(narrow.hold)
app.command()(narrow.quarantine)
app.command()(narrow.lift)
app.command()(locks.lock)
app.command()(locks.unlock)
app.command()(locks.locks)
app.command()(status.status)
app.command()(check.check)
policy.app.command()(revocations.minimum)
app.add_typer(policy.app, name="policy")
clusters.app.command()(decommission.remove)
clusters.app.command()(endorse.endorse)
app.add_typer(author.app, name="author")
app.add_typer(keyring_list.app, name="keys")
app.add_typer(clusters.app, name="clusters")
app.add_typer(cells.app, name="cells")
app.add_typer(audit.app, name="audit")
app.add_typer(tokens.app, name="tokens")
app.add_typer(trust.app, name="trust")


@app.command()
@command
def version(output: OutputOption = Format.table) -> None:
    """Show the version of this program."""
    from cellward.version import VERSION

    if output in {Format.json, Format.yaml}:
        show_data({"version": VERSION}, output)
    else:
        put(VERSION if output is Format.table else f"version/{VERSION}")


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback, and a poor terminal does not end it."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
