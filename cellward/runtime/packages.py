"""Modules of a package without its first file, for packages whose first file imports much more than is used."""

from __future__ import annotations

import importlib.util
import sys
import types


def pass_first_files(*names: str) -> None:
    """Make packages whose ``__init__`` is not run; modules below them are found all the same.

    A package that is loaded already stays. Raises ModuleNotFoundError where one is not installed.
    """
    for name in names:
        if name not in sys.modules:
            sys.modules[name] = _without_first_file(name)


def _without_first_file(name: str) -> types.ModuleType:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    package = types.ModuleType(name)
    package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations)
    return package
