"""Fixtures every kind of test may use: the real parts, found but never built here (``make test`` builds them first)."""

from __future__ import annotations

import functools
import gc
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.testing
from hypothesis import settings
from typer.main import get_command

from tests.fakes.postgres import Server, require, running
from tests.fakes.schema import Schema
from tools.parts.locate import path_of
from tools.stack.control_plane import BlockingControlPlane

# No test is about time (design §13), and a busy machine is none of a property's business.
settings.register_profile("cellward", deadline=None)
settings.load_profile("cellward")


#: What `make test-pythons` sets for its own `make test`: programs that tests start must not take it for theirs.
_OF_OUR_MAKE = ("CELLWARD_VENV", "PYTHON", "MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "MFLAGS")


@pytest.fixture(scope="session", autouse=True)
def _one_command_tree() -> Iterator[None]:
    """Build the commands of ``cellward`` once in a test process, as each process of its users does.

    Typer's runner would build all of them anew for every command a test runs, which costs ten times the command.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_schema() -> Iterator[None]:
    """Run the migrations of an empty SQLite store once in a test process; tests open hundreds of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hub.store.sql.store.upgrade", Schema().upgrade)
        yield


@pytest.fixture(scope="session")
def opa_binary() -> Path:
    """Return the real OPA at the pinned version."""
    return path_of("opa")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Run one real PostgreSQL server; each test makes a database of its own."""
    with running(require()) as server:
        yield server


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingControlPlane]:
    """Run one real API server with etcd and controllers, the agent's chart installed, no nodes.

    Tests share it, all of them in one test process (see ``pytest_collection_modifyitems``): each works in cell
    namespaces of its own and leaves cluster-wide objects alone. It is synchronous on purpose, so that function-scoped
    event loops come and go around it.
    """
    with BlockingControlPlane("test", tmp_path_factory.mktemp("control-plane")) as running:
        running.install_agent_chart()
        yield running


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin what may take long first, and keep the random order of the rest.

    What runs together, a group of xdist or else a module, is as long as the longest time limit in it. Begun last, it
    would keep one test process busy while the others have nothing left to do. All tests of the shared control plane
    are two groups, each with one of its own, or every process would run one.
    """
    longest: dict[str, float] = {}
    for item in items:
        if "control_plane" in getattr(item, "fixturenames", ()) and item.get_closest_marker("xdist_group") is None:
            cells = "cells" in item.path.parent.parts
            item.add_marker(pytest.mark.xdist_group("control-plane-of-cells" if cells else "control-plane"))
        whole = _whole(item)
        longest[whole] = max(longest.get(whole, 0.0), _limit(item))
    items.sort(key=lambda item: -longest[_whole(item)])


def pytest_collection_finish() -> None:
    """Let the collector of garbage pass over what is there for the whole run: six thousand tests and their modules.

    Several tests collect to see that nothing is left behind, each for half a second otherwise.
    """
    gc.collect()
    gc.freeze()


def _whole(item: pytest.Item) -> str:
    group = item.get_closest_marker("xdist_group")
    return str(group.args[0]) if group is not None else item.nodeid.partition("::")[0]


def _limit(item: pytest.Item) -> float:
    limit = item.get_closest_marker("timeout")
    return float(limit.args[0]) if limit is not None else 0.0


class Strays:
    """Fails the run, and no innocent test, with exceptions that nobody could raise and with what was never closed.

    The interpreter reports them when it collects the object, during whichever test runs just then.
    """

    CATEGORIES = (pytest.PytestUnraisableExceptionWarning, pytest.PytestUnhandledThreadExceptionWarning)

    def __init__(self) -> None:
        self._found: list[str] = []

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, nodeid: str) -> None:
        """Note one, with the test that ran when it was found."""
        if issubclass(warning_message.category, self.CATEGORIES):
            self._found.append(f"found during {nodeid or 'no test'}:\n{warning_message.message}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that passed otherwise."""
        if self._found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show them."""
        for found in self._found:
            terminalreporter.section("an exception nobody could raise; an earlier test may have left it", red=True)
            terminalreporter.line(found)


def pytest_configure(config: pytest.Config) -> None:
    """Leave the environment of our own ``make`` and install the collector of strays.

    On the workers of xdist only its filters, which have the process that reports fail.
    """
    for name in _OF_OUR_MAKE:
        os.environ.pop(name, None)
    for category in Strays.CATEGORIES:
        config.addinivalue_line("filterwarnings", f"always::pytest.{category.__name__}")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Strays())
