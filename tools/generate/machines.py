"""``desired-items.md`` and its like: what a pure machine makes of each event, read from its rules.

A machine is a module with ``State``, ``Event`` and ``Effect`` (unions of dataclasses) and one rule for each event,
registered with ``_rule``. What a rule may change and do is what it and the functions that it calls say; the meaning of
each event, effect and field is its docstring.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from agent.cells.machine import repairs
from agent.link import holding, listed
from tools.generate.page import ROOT, Page, code, plain

_ATTRIBUTE = re.compile(r"^(\w+): (.*?)(?=^\w+: |\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class _Machine:
    """A module, and the page it becomes."""

    module: ModuleType
    page: str
    title: str
    about: str


_MACHINES = (
    _Machine(
        repairs,
        "repairs.md",
        "What is repaired of a cell, and when",
        "Whatever of a cell differs from what was released is brought back. Which object is looked at when, how long "
        "one that is refused waits, and what is reported is one pure function of a state and an event, beside the "
        "[life of the cell](cell-life.md). `agent/cells/drift.py` carries the effects out, in order; what becomes of "
        "each is the next event.",
    ),
    _Machine(
        listed,
        "desired-items.md",
        "What a hub lists, as the agent takes it",
        "What becomes of the items that a hub names to an agent is one pure function of a state and an event. A small "
        "driver (`agent/link/desired.py`) carries the effects out, in order; what becomes of each is the next event.",
    ),
    _Machine(
        holding,
        "identity.md",
        "The identity of an agent",
        "Join, renewal and recovery, and how long is waited between tries, are one pure function of a state and an "
        "event. `agent/link/enrolment.py` carries the effects out, in order; what becomes of each is the next event.",
    ),
)


def pages(out: Path) -> None:
    """Write one page for each machine."""
    for machine in _MACHINES:
        _page(out, machine)


def _page(out: Path, machine: _Machine) -> None:
    module = machine.module
    source = Path(inspect.getfile(module)).relative_to(ROOT).as_posix()
    page = Page(machine.title, source)
    page.text(machine.about)
    page.heading("State")
    page.table(("field", "what it is"), ((code(name), text) for name, text in _attributes(module.State).items()))
    page.heading("Transitions")
    page.text("For each event what the rule may change and may have done; the rule itself says when.")
    rules = _Rules(module)
    rows = []
    for event in typing.get_args(module.Event):
        changes, effects = rules.of(event.__name__)
        rows.append(
            (code(event.__name__), _meaning(event), ", ".join(map(code, changes)), ", ".join(map(code, effects)))
        )
    page.table(("event", "when", "may change", "may have done"), rows)
    page.heading("Effects")
    done_by = typing.get_args(module.Effect)
    page.table(("effect", "what is done"), ((code(effect.__name__), _meaning(effect)) for effect in done_by))
    page.write(out, machine.page)


def _meaning(kind: type) -> str:
    return plain(inspect.getdoc(kind) or "")


def _attributes(kind: Any) -> Mapping[str, str]:
    """What the docstring says of each field; one without a sentence is a mistake of ours."""
    documented = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2]
    found = {name: plain(text) for name, text in _ATTRIBUTE.findall(inspect.cleandoc(documented))}
    names = [field.name for field in dataclasses.fields(kind)]
    missing = set(names) - found.keys()
    if missing:
        raise LookupError(f"the docstring of {kind.__qualname__} says nothing of {', '.join(sorted(missing))}")
    return {name: found[name] for name in names}


class _Rules:
    """The functions of a machine: which is for which event, and what each says."""

    def __init__(self, module: ModuleType) -> None:
        tree = ast.parse(inspect.getsource(module))
        self._functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self._fields = [field.name for field in dataclasses.fields(module.State)]
        self._effects = [effect.__name__ for effect in typing.get_args(module.Effect)]
        self._rules = {
            ast.unparse(node.args.args[0].annotation): name
            for name, node in self._functions.items()
            if node.args.args and node.args.args[0].annotation is not None
            and any(ast.unparse(decorator) == "_rule.register" for decorator in node.decorator_list)
        }  # fmt: skip

    def of(self, event: str) -> tuple[list[str], list[str]]:
        """Fields that the rule of an event may change, and effects it may have."""
        names: set[str] = set()
        changed: set[str] = set()
        self._collect(self._rules[event], names, changed)
        return [name for name in self._fields if name in changed], [name for name in self._effects if name in names]

    def _collect(self, function: str, names: set[str], changed: set[str]) -> None:
        names.add(function)
        for node in ast.walk(self._functions[function]):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called == "replace":
                changed.update(keyword.arg for keyword in node.keywords if keyword.arg in self._fields)
            if called in self._functions and called not in names:
                self._collect(called, names, changed)
            names.add(called)
