"""The group ``cellward isolation``."""

from __future__ import annotations

import typer

from cli.isolation import explain, matrix, measured

app = typer.Typer(no_args_is_help=True, help="What may talk to what, and why.")
app.command()(explain.explain)
app.command()(matrix.matrix)
app.command("test")(measured.measured)
