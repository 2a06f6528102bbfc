"""The command of a process that serves until it is stopped: ``<program> run --config FILE``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
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

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run it; exit 0 after an orderly stop, otherwise by the error's class."""
        parser = argparse.ArgumentParser(prog=self.name, description=self.description)
        commands = parser.add_subparsers(dest="command", required=True)
        run = commands.add_parser("run", help=self.verb)
        run.add_argument("--config", type=Path, required=True, help="settings, YAML")
        arguments = parser.parse_args(argv)
        try:
            settings = self.load(arguments.config)
            configure_logging(settings.log_level)
            asyncio.run(self._worked(settings))
        except CellwardError as error:
            told = f"{self.name}: {escaped(error.message)} [{escaped(error.code)}]\n{escaped(error.hint)}\n"
            sys.stderr.write(told)
            return error.exit_code
        return 0

    async def _worked(self, settings: S) -> None:
        await self.work(settings)
