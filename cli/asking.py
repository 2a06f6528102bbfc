"""``cellward clusters command``: asks the agent of a cluster for one of a closed list of things (V2).

None of them changes what an agent believes or runs: it looks again, says how it is, or renews and reconnects.
"""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Annotated, Final

import typer

from cli import errors
from cli.context import command, local
from cli.options import DEFAULT_HOME, ClusterArgument, HomeOption, OutputOption
from cli.output import Format, say, show_one, show_table

if TYPE_CHECKING:
    from cellward.api import schemas
    from cli.door.client import Client

#: Seconds between two looks, and those that an outcome is waited for.
STEP = 0.3
DEFAULT_TIMEOUT: Final = 30.0
_PENDING = frozenset({"waiting", "sent"})


@command
def command_agent(
    name: ClusterArgument,
    kind: Annotated[str, typer.Argument(help="resync, probe, diagnose, renew or reconnect.")],
    subject: Annotated[str, typer.Argument(help="For probe: PROJECT/CELL/ENVIRONMENT.", show_default=False)] = "",
    command_id: Annotated[
        str, typer.Option("--id", help="Id of the command: given again, no second one is sent.", show_default=False)
    ] = "",
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for the outcome; 0 does not wait.")
    ] = DEFAULT_TIMEOUT,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Give a command to the connected agent of a cluster, and show what became of it.

    resync compares everything again, diagnose shows the agent's own conditions, renew renews its certificate, reconnect
    opens a new link, probe tests the isolation of a cell.
    """
    from cellward.api import schemas

    try:
        body = schemas.CommandRequest.model_validate(
            {"kind": kind, "subject": subject, "id": command_id or str(uuid.uuid4())}
        )
    except ValueError as error:
        raise errors.BAD_OPTION(
            f"no such command: {kind[:40]!r}, or --id is not 8 to 64 small letters, digits and hyphens",
            hint="The commands are resync, probe, diagnose, renew and reconnect.",
        ) from error
    given = _outcome(local(home).client(), name, body, timeout)
    show_one(given, output, lambda: _table(given), f"command/{given.id}")
    _judge(given, timeout)


def _outcome(client: Client, name: str, body: schemas.CommandRequest, timeout: float) -> schemas.Command:
    """Give the command, and look until the outcome is there or time is up."""
    from cellward.api import schemas

    deadline, path = time.monotonic() + timeout, f"/clusters/{name}/commands"
    given = _ours(client.post(path, body, schemas.Command), name, body)
    while given.state in _PENDING and time.monotonic() < deadline:
        time.sleep(STEP)
        given = _ours(client.get(f"{path}/{body.id}", schemas.Command), name, body)
    return given


def _ours(given: schemas.Command, name: str, body: schemas.CommandRequest) -> schemas.Command:
    """Return the command that was asked about; its id is what a person types next, and is not the hub's to choose."""
    if (given.cluster, given.kind, given.id) != (name, body.kind, body.id):
        raise errors.BAD_ANSWER("the hub answered with another command than it was asked about")
    return given


def _judge(given: schemas.Command, timeout: float) -> None:
    """Raise cli/command-refused, cli/no-outcome for what was not done."""
    if given.state == "refused":
        raise errors.COMMAND_REFUSED(f"{given.cluster}: {given.reason or given.kind} [{given.code or 'no code'}]")
    if given.state in _PENDING and not timeout:
        say(f"given; look again with --id {given.id}")
    elif given.state != "done":
        raise errors.NO_OUTCOME(f"{given.cluster}: {given.kind} is {given.state}; its id is {given.id}")


def _table(given: schemas.Command) -> None:
    rows = [[given.cluster, given.kind, given.state, given.id]]
    show_table(("cluster", "command", "state", "id"), rows)
    if given.facts:
        show_table(("what", "state"), [[key, value] for key, value in sorted(given.facts.items())])
