"""The group ``cellward isolation``."""

from __future__ import annotations

import typer

from cli.isolation import matrix

app = typer.Typer(no_args_is_help=True, help="What may talk to what, and why.")
app.command()(matrix.matrix)
