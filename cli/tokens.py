"""``cellward tokens``: bearer tokens of the admin API for people and machines; made by an admin, shown once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import errors
from cli.context import command, local
from cli.door.pages import every
from cli.options import DEFAULT_HOME, HomeOption, OutputOption
from cli.output import Format, put, say, show_list, show_one, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from cellward.api import schemas
    from cli.door.client import Client

app = typer.Typer(no_args_is_help=True, help="API tokens, each with a role: viewer, deployer or admin.")

_UNITS = {"m": 60, "h": 3600, "d": 24 * 3600}


@app.command()
@command
def create(
    name: Annotated[str, typer.Option(help="Person or machine it is for; the actor in audit records.")],
    role: Annotated[str, typer.Option(help="viewer, deployer or admin.")],
    expires: Annotated[str, typer.Option(help="How long it lives: 30m, 12h, 90d; at most 366d.")] = "30d",
    project: Annotated[
        list[str] | None, typer.Option(help="A project it is valid for; may be repeated; default: every one.")
    ] = None,
    environment: Annotated[
        list[str] | None, typer.Option(help="An environment it is valid for; may be repeated; default: every one.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="Write the token into this new file, readable by you alone, and do not show it.")
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Make a token. It is shown once: the hub keeps a hash."""
    from cellward.api import schemas
    from cli.door.client import check_token

    if file is None and output is Format.name:
        raise errors.BAD_OPTION("-o name does not show the token", hint="Give --file, or another format.")
    if file is not None and file.exists():
        raise errors.EXISTS(f"{file} exists already", hint="Name a file that does not exist.")
    if file is not None and not file.parent.is_dir():
        raise errors.BAD_FILE(f"{file.parent} is not a directory", hint="Name a file in a directory that exists.")
    try:
        body = schemas.ApiTokenCreate(
            name=name,
            role=role,  # type: ignore[arg-type]
            lifetime_seconds=_seconds(expires),
            projects=project or ["*"],
            environments=environment or ["*"],
        )
    except ValueError as error:
        raise errors.BAD_OPTION(_explain(error), hint="See `cellward tokens create --help`.") from error
    made = local(home).client().post("/tokens", body, schemas.ApiTokenCreated)
    # Somebody's scripts, and a header, are to hold it.
    check_token(made.token.encode("utf-8", "replace"), "the answer of the hub", errors.BAD_ANSWER)
    if file is not None:
        _write(file, made.token)
        made = made.model_copy(update={"token": ""})
    show_one(made, output, lambda: _table([made]) if file is not None else put(made.token), f"token/{made.name}")
    say(f"{made.name} is {made.role} until {_until(made.expires_at)}; log in with `cellward login --token-file`")


@app.command("list")
@command
def list_tokens(home: HomeOption = DEFAULT_HOME, output: OutputOption = Format.table) -> None:
    """List tokens with role and expiry; the tokens themselves cannot be shown again."""
    show_list(
        _all(local(home).client()),
        output,
        (
            ("name", lambda item: item.name),
            ("role", lambda item: item.role),
            ("projects", lambda item: ",".join(item.projects)),
            ("environments", lambda item: ",".join(item.environments)),
            ("expires", lambda item: "expired" if item.expired else _until(item.expires_at)),
            ("created", lambda item: f"{item.created_at:%Y-%m-%d %H:%M} UTC" if item.created_at else "-"),
            ("by", lambda item: item.created_by or "-"),
        ),
        lambda item: f"token/{item.name}",
    )


@app.command()
@command
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the token.")],
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Revoke a token; the next request with it is refused."""
    from cellward.api import schemas

    gone = local(home).client().delete(f"/tokens/{name}", schemas.ApiToken)
    show_one(gone, output, lambda: _table([gone]), f"token/{gone.name}")
    say(f"the token of {gone.name} is revoked")


def _all(client: Client) -> list[schemas.ApiToken]:
    from cellward.api import schemas

    return list(every(lambda cursor: client.get("/tokens", schemas.ApiTokenList, cursor=cursor)))


def _seconds(text: str) -> int:
    """Seconds of ``30m``, ``12h``, ``90d``; raises cli/bad-option."""
    found = re.fullmatch(r"([0-9]{1,6})([mhd])", text)
    if found is None:
        raise errors.BAD_OPTION(f"--expires {text[:40]!r} is not a time like 30m, 12h or 90d")
    return int(found[1]) * _UNITS[found[2]]


def _explain(error: ValueError) -> str:
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)
    names = {"lifetimeSeconds": "expires", "projects": "project", "environments": "environment"}
    found = [(str(item["loc"][0]), item["msg"]) for item in error.errors(include_url=False, include_input=False)]
    return "; ".join(f"--{names.get(field, field)}: {message}" for field, message in found)


def _write(file: Path, token: str) -> None:
    from cellward.runtime.files import write_atomic

    try:
        write_atomic(file, token.encode() + b"\n")
    except OSError as error:
        hint = "Revoke it, and make another one: this one was shown to nobody."
        raise errors.BAD_FILE(f"{file} cannot be written: {error.strerror}", hint=hint) from error


def _table(items: Sequence[schemas.ApiToken]) -> None:
    show_table(
        ("name", "role", "projects", "environments", "expires"),
        [
            [item.name, item.role, ",".join(item.projects), ",".join(item.environments), _until(item.expires_at)]
            for item in items
        ],
    )


def _until(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC" if at is not None else "never"
