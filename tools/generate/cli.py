"""``cli.md``: every command of ``cellward`` with its options, and the exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer.main

from cellward.errors import CellwardError
from cli.commands import app
from tools.generate.page import Page, code, plain

#: Options every command shares are described once.
_COMMON = ("home", "output", "passphrase_file")


def page(out: Path) -> None:
    """Write ``cli.md``."""
    commands = list(_commands(typer.main.get_command(app), "cellward"))
    page = Page("The `cellward` command", "cli")
    page.text(
        "Data goes to standard output, everything else to standard error. `cellward COMMAND --help` says the same as "
        "this page. Programs of their own: `cellward-hub run --config FILE` ([settings](config-hub.md)), "
        "`cellward-agent run --config FILE` ([settings](config-agent.md)), and `python -m auditverify FILE`, the "
        "offline verifier behind `cellward audit verify`."
    )
    _exit_codes(page)
    page.heading("Options of many commands")
    seen = {param.name: param for _, command in commands for param in command.params if param.name in _COMMON}
    page.table(("option", "value", "default", "meaning"), (_option(seen[name]) for name in _COMMON))
    page.heading("Variables")
    page.table(
        ("variable", "meaning"),
        (
            (code("CELLWARD_HOME"), "as `--home`; the default is `~/.config/cellward`"),
            (code("CELLWARD_SERVER"), "another hub than the one logged in to"),
            (code("CELLWARD_TOKEN"), "another API token than the one logged in with"),
            (code("CELLWARD_PASSPHRASE_FILE"), "as `--passphrase-file`"),
            (code("CELLWARD_PASSPHRASE"), "the passphrase itself"),
            (code("CELLWARD_OPA"), "as `--opa`"),
            (code("CELLWARD_DEBUG"), "not empty: a traceback for a mistake of the command itself"),
        ),
    )
    for name, command in commands:
        _command(page, name, command)
    page.write(out, "cli.md")


def _exit_codes(page: Page) -> None:
    kinds: dict[int, list[str]] = {}
    for kind in CellwardError.__subclasses__():
        kinds.setdefault(kind.exit_code, []).append(code(kind.__name__))
    meanings = {
        0: "done",
        1: "a check failed, something differs, or something is not there",
        2: "the command or what it was given cannot be used",
        3: "the hub cannot be reached, or a bound was reached",
        4: "denied or refused",
    }
    page.heading("Exit codes")
    page.table(
        ("code", "meaning", "classes of [errors](errors.md)"),
        ((str(number), text, ", ".join(kinds.get(number, ()))) for number, text in meanings.items()),
    )
    page.text("Ctrl-C ends with 130.")


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that does something, with its whole name."""
    children = getattr(command, "commands", None)
    if not children:
        yield name, command
        return
    for child_name, child in children.items():
        yield from _commands(child, f"{name} {child_name}")


def _command(page: Page, name: str, command: Any) -> None:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param.param_type_name == "option" and param.name != "help"]
    shared = [param.opts[0] for param in options if param.name in _COMMON]
    page.heading(code(name))
    page.text(plain(command.help or ""))
    words = [name, *(_usage(param) for param in options if param.required)]
    words += ["[OPTIONS]"] if options else []
    page.code([" ".join([*words, *(param.name.upper() for param in arguments)])])
    page.table(("argument", "meaning"), ((code(param.name.upper()), plain(param.help or "")) for param in arguments))
    own = [param for param in options if param.name not in _COMMON]
    page.table(("option", "value", "default", "meaning"), map(_option, own))
    if shared:
        page.text(f"And {', '.join(map(code, shared))}, as above.")


def _usage(param: Any) -> str:
    return f"{param.opts[0]} {_value(param)}"


def _option(param: Any) -> tuple[str, str, str, str]:
    names = ", ".join(map(code, [*param.opts, *param.secondary_opts]))
    value = "" if param.is_flag else code(_value(param)) + (", repeatable" if param.multiple else "")
    return names, value, _default(param), plain(param.help or "")


def _value(param: Any) -> str:
    annotation = param.type_descriptor.annotation
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    words = {int: "NUMBER", float: "SECONDS" if param.name == "timeout" else "NUMBER"}
    if annotation in words:
        bounds = [str(bound) for bound in (param.min, param.max) if bound is not None]
        return words[annotation] + (f" ({' to '.join(bounds)})" if len(bounds) == 2 else "")
    if "Path" in str(annotation):
        return "PATH"
    return "TEXT"


def _default(param: Any) -> str:
    if param.required:
        return "must be given"
    value = param.default
    if not param.show_default or value is None or value == "" or value is False:
        return ""
    return code(str(value.value if isinstance(value, Enum) else value))
