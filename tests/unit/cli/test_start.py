"""How much a command loads before it does something: what it imports is counted, which says more than a clock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer

from cli.commands import COMMANDS, app

#: Libraries that cost start-up time, and the rooms that need them.
HEAVY = {
    "aiohttp", "asyncio", "cryptography", "email", "grpc", "http", "kubernetes", "pydantic", "rich", "securesystemslib",
    "sqlalchemy", "ssl", "tuf", "typer", "urllib", "yaml",
}  # fmt: skip
CODE = """
import json, sys
sys.argv = ["cellward", *json.loads(sys.argv[1])]
try:
    from cli.main import main
    main()
except SystemExit:
    pass
finally:
    print(json.dumps(sorted(sys.modules)))
"""


def loaded(*words: str) -> set[str]:
    """Names of the modules that one command loads."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(words)], capture_output=True, text=True, check=True,
        env={"COLUMNS": "80", "NO_COLOR": "1"},
    )  # fmt: skip
    return set(json.loads(done.stdout.splitlines()[-1]))


def ours(modules: set[str]) -> set[str]:
    """Those of this program."""
    return {name for name in modules if name.partition(".")[0] in {"cellward", "cli", "hub", "agent", "auditverify"}}


def libraries(modules: set[str]) -> set[str]:
    """The heavy libraries among them."""
    return {name.partition(".")[0] for name in modules} & HEAVY


def test_version_loads_no_library() -> None:
    """Scripts and images ask for it: neither the parser of options nor any other library is loaded."""
    modules = loaded("version")
    assert libraries(modules) == set()
    assert ours(modules) == {
        "cellward", "cellward.documents", "cellward.documents.differences", "cellward.telemetry",
        "cellward.telemetry.terminal", "cellward.version", "cli", "cli.main", "cli.output",
    }  # fmt: skip


def test_version_in_another_format_loads_no_command() -> None:
    """Of the commands none is loaded but the one that was asked for."""
    modules = loaded("version", "-o", "json")
    assert libraries(modules) <= {"typer", "pydantic", "email", "urllib", "asyncio"}
    assert not {place.partition(":")[0] for place in COMMANDS.values()} - {"cli.commands"} & modules


def test_help_loads_no_library_of_a_command() -> None:
    """Commands are loaded for their first lines, what they work with is not: no TLS, no YAML, no TUF, no keys."""
    modules = loaded("--help")
    assert (
        libraries(modules) & {"aiohttp", "cryptography", "grpc", "http", "securesystemslib", "ssl", "tuf", "yaml"}
        == set()
    )
    foreign = ("cellward.api", "cellward.policy", "cli.door.client", "cli.state.store")
    assert not [name for name in ours(modules) if name.startswith(foreign)]


def test_a_command_loads_no_other_command() -> None:
    """``apply --help`` reads no module of another noun."""
    assert not {"cli.policy", "cli.trust", "cli.audit", "cli.author"} & loaded("apply", "--help")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_is_where_the_table_says(name: str) -> None:
    """A name leads to the function or group of that name."""
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.name == name
    assert command.help
