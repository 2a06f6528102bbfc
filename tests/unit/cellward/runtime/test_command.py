"""The command of a serving process, the same on both sides."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from agent.__main__ import main as agent_main
from agent.link.errors import STREAM_REFUSED
from cellward.runtime.command import Program
from hub.__main__ import main as hub_main


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A process sets up logging for good; the tests after this one must not write to its standard error."""
    yield
    structlog.reset_defaults()


@dataclass
class Settings:
    """The least a process has."""

    log_level: str = "error"


def program(seen: list[Path], *, refuses: bool = False) -> Program[Settings]:
    """A process that ends at once."""

    def load(path: Path) -> Settings:
        seen.append(path)
        return Settings()

    async def work(settings: Settings) -> None:
        del settings
        if refuses:
            raise STREAM_REFUSED("not today", hint="Ask somebody.")

    return Program("cellward-x", "A test.", "work", load, work)


def test_an_orderly_end_is_zero_and_an_error_speaks_and_gives_its_class(capsys: pytest.CaptureFixture[str]) -> None:
    """V15: message, code and next step on standard error, nothing on standard output."""
    seen: list[Path] = []
    assert program(seen).main(["run", "--config", "a.yaml"]) == 0
    assert seen == [Path("a.yaml")]
    assert program(seen, refuses=True).main(["run", "--config", "a.yaml"]) == 4
    out, err = capsys.readouterr()
    assert (out, err) == ("", "cellward-x: not today [link/stream-refused]\nAsk somebody.\n")


@pytest.mark.parametrize("main", [agent_main, hub_main], ids=["agent", "hub"])
def test_a_settings_file_that_is_not_there_is_a_sentence_and_not_a_traceback(
    main: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sides read their settings before anything else."""
    assert callable(main)
    assert main(["run", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("room", ["agent", "hub"])
def test_help_imports_nothing_heavy(room: str) -> None:
    """What takes seconds and tens of megabytes is only imported by a process that is about to work."""
    code = (
        f"import sys, {room}.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'grpc', 'kubernetes', 'sqlalchemy', 'aiohttp'} & set(sys.modules)), file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stderr.strip() == "[]"
