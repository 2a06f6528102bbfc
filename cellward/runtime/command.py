"""The commands of a process that serves until it is stopped: ``<program> run --config FILE``, and tools beside it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from cellward.errors import CellwardError
from cellward.telemetry.logging import configure_logging
from cellward.telemetry.terminal import escaped


class HasLogLevel(Protocol):
    """Settings of any process."""

    @property
    def log_level(self) -> str:
        """Level of ``configure_logging``."""
        ...


S = TypeVar("S", bound=HasLogLevel)


@dataclass(frozen=True, slots=True)
class Tool(Generic[S]):
    """A command beside ``run`` that ends by itself.

    Attributes:
        name: of the command.
        help: what it does, one sentence.
        work: does it; returns what goes to standard output: one JSON object, or text as it is.
        operand: name of its positional argument, a path; empty for none, in brackets for one that may be missing.
    """

    name: str
    help: str
    work: Callable[[S, Path | None], Awaitable[Mapping[str, object] | str]]
    operand: str = ""


@dataclass(frozen=True, slots=True)
class Program(Generic[S]):
    """A process of ours.

    Attributes:
        name: of the executable.
        description: one sentence for ``--help``.
        verb: what ``run`` does, for ``--help``.
        load: reads the settings; raises CellwardError.
        work: runs until stopped. It imports what is heavy itself: --help and a bad settings file need none of it.
    """

    name: str
    description: str
    verb: str
    load: Callable[[Path], S]
    work: Callable[[S], Awaitable[None]]
    tools: Sequence[Tool[S]] = ()

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run it; exit 0 after an orderly stop, otherwise by the error's class."""
        parser = argparse.ArgumentParser(prog=self.name, description=self.description)
        commands = parser.add_subparsers(dest="command", required=True)
        run = commands.add_parser("run", help=self.verb)
        run.add_argument("--config", type=Path, required=True, help="settings, YAML")
        for tool in self.tools:
            _add(commands, tool)
        arguments = parser.parse_args(argv)
        try:
            settings = self.load(arguments.config)
            configure_logging(settings.log_level)
            for tool in self.tools:
                if tool.name == arguments.command:
                    result = asyncio.run(_done(tool, settings, arguments.operand))
                    sys.stdout.write(result if isinstance(result, str) else f"{json.dumps(result, indent=2)}\n")
                    return 0
            asyncio.run(self._worked(settings))
        except CellwardError as error:
            told = f"{self.name}: {escaped(error.message)} [{escaped(error.code)}]\n{escaped(error.hint)}\n"
            sys.stderr.write(told)
            return error.exit_code
        return 0

    async def _worked(self, settings: S) -> None:
        await self.work(settings)


def _add(commands: argparse._SubParsersAction[argparse.ArgumentParser], tool: Tool[S]) -> None:
    parser = commands.add_parser(tool.name, help=tool.help, description=tool.help)
    parser.add_argument("--config", type=Path, required=True, help="settings, YAML")
    name = tool.operand.strip("[]")
    if not name:
        parser.set_defaults(operand=None)
    elif name == tool.operand:
        parser.add_argument("operand", type=Path, metavar=name)
    else:
        parser.add_argument("operand", type=Path, metavar=name, nargs="?")


async def _done(tool: Tool[S], settings: S, operand: Path | None) -> Mapping[str, object] | str:
    return await tool.work(settings, operand)
