"""What every command needs: the local directory, the output format, a client; and the one place that shows errors."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import typer

from cellward.errors import CellwardError
from cli import errors
from cli.home import Home, Trust, shown
from cli.output import say, say_trace

if TYPE_CHECKING:
    from cli.door.client import Client

_P = ParamSpec("_P")


@dataclass(frozen=True, slots=True)
class Local:
    """The local directory, and whom it belongs to."""

    home: Home

    def client(self) -> Client:
        """A client of the hub logged in to."""
        from cli.door.client import Client

        return Client(self.home.profile())

    def trusted_client(self, trust: Trust) -> Client:
        """The same, after comparing its realm with trust.yaml: nothing is signed for, or sent to, another hub."""
        from cellward.api import schemas

        client = self.client()
        realm = client.get("/trust", schemas.Trust).realm
        if realm != trust.realm:
            raise errors.FOREIGN_HUB(f"the hub serves realm {realm or '(none)'}, trust.yaml names {trust.realm}")
        return client


def local(home: Path) -> Local:
    """The local directory of a command."""
    return Local(Home(home))


def now() -> datetime:
    """Time of this machine; what is signed carries it, in whole milliseconds."""
    found = datetime.now(UTC)
    return found.replace(microsecond=found.microsecond // 1000 * 1000)


def instant() -> datetime:
    """Time of this machine, from which numbers are made."""
    return datetime.now(UTC)


def command(function: Callable[_P, None]) -> Callable[_P, None]:
    """Wrap a command: an expected failure becomes three lines on stderr and its exit code, never a traceback."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except BrokenPipeError:
            # The reader has seen enough, as with `| head`; keep the interpreter from complaining at its end.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - until the process ends
            raise typer.Exit(0) from None
        except Exception as error:
            known = _as_told(error)
            show_error(known)
            raise typer.Exit(known.exit_code) from error

    return wrapped


def _as_told(error: Exception) -> CellwardError:
    """What a person sees of it; a traceback only with CELLWARD_DEBUG."""
    if isinstance(error, CellwardError):
        return error
    if os.environ.get("CELLWARD_DEBUG"):
        say_trace(error)
    if isinstance(error, OSError):
        named = shown(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else "input or output"
        return errors.BAD_FILE(f"{named}: {error.strerror or type(error).__name__}")
    if isinstance(error, UnicodeError):
        return errors.BAD_OPTION("what was given is not text in UTF-8")
    return errors.INTERNAL(f"an unexpected {type(error).__name__}")


def show_error(error: CellwardError) -> None:
    """What failed, why, and what to do next (V15)."""
    from cli.door.answers import RELAYED
    from cli.door.steps import HEADING

    relayed = error.details.get(RELAYED)
    # A hub's words are shown as such, whatever they say.
    say(f"error: {f'{HEADING}: ' if relayed is not None else ''}{error.message} [{error.code}]")
    for name in ("rule", "object"):
        if error.details.get(name):
            say(f"  {name}: {error.details[name]}")
    if error.hint:
        say(f"  next: {error.hint}")
    if relayed:
        say(f"  {HEADING}: {relayed}")
