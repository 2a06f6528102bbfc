"""The entry point ``cellward``: puts the nouns together."""

from __future__ import annotations

import sys

import typer

from hub.cli import apply, audit, cells, check, clusters, delete, policy, setup, status

app = typer.Typer(
    name="cellward",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Govern cells on many clusters; what widens anything is signed here, with keys the hub never sees.",
)
app.command()(setup.init)
app.command()(setup.login)
app.command()(apply.apply)
app.command()(delete.delete)
app.command()(status.status)
app.command()(check.check)
app.add_typer(policy.app, name="policy")
app.add_typer(clusters.app, name="clusters")
app.add_typer(cells.app, name="cells")
app.add_typer(audit.app, name="audit")


@app.command()
def version() -> None:
    """Show the version of this program."""
    from cellward.version import VERSION

    print(VERSION)


def main() -> None:
    """Run the command line; Ctrl-C ends it without a traceback."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
