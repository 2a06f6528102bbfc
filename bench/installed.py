"""Run a module as if only its own requirements were installed: ``python -m bench.installed NAMES MODULE ARGUMENTS…``.

The tree's environment has the dependencies of hub, agent, command line and tests together, and libraries import what
happens to be there: structlog takes rich, which takes pygments, 7 MB that no installed hub has. ``NAMES`` are top-level
modules, separated by commas, that are hidden; ``others`` names them for a file of requirements.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


class Hidden(MetaPathFinder):
    """Finds nothing, loudly, for modules that are hidden."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise for what is hidden, as for what is not installed."""
        del path, target
        if fullname.partition(".")[0] in self._names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)
        return None


def others(requirements: Path) -> frozenset[str]:
    """Return the top-level modules of every installed distribution that is not among the requirements."""
    from importlib.metadata import packages_distributions  # noqa: PLC0415 - never in the process that is measured

    wanted = {_plain(name) for name in re.findall(r"(?m)^([A-Za-z0-9._-]+)==", requirements.read_text())}
    own = {"cellward"}
    return frozenset(
        module
        for module, names in packages_distributions().items()
        if not {_plain(name) for name in names} & (wanted | own) and module.isidentifier()
    )


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Hide, then run the module as if it had been started itself."""
    sys.meta_path.insert(0, Hidden(frozenset(sys.argv[1].split(","))))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
