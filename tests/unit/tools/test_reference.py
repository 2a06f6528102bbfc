"""The reference pages, the guides and the error catalogue say what is true of the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cellward.cells.load import load_manifests
from cli.commands import app
from tools.generate import api, audit, cli, errors, machines, metrics, settings
from tools.generate.page import ROOT

#: Pages people write by hand, where they may be wrong; generated ones are compared as a whole.
GUIDES = sorted(
    [
        *ROOT.glob("*.md"),
        *(file for file in (ROOT / "docs").rglob("*.md") if "reference" not in file.parts),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "policies").glob("*.md"),
        *(ROOT / "charts").rglob("*.md"),
    ]
)
PAGES = sorted({*GUIDES, *(ROOT / "docs").rglob("*.md")})
_CODE = re.compile(r"[`\[]([a-z][a-z0-9-]*/[a-z0-9]+(?:-[a-z0-9]+)*)[`\]]")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


def test_v15_every_error_code_says_what_to_do_next() -> None:
    """V15: a refusal names its next step, so no entry of the catalogue may leave it out."""
    silent = [name for name, entry in errors.whole_catalogue().items() if not entry.hint.strip()]
    assert silent == []


def test_every_code_of_the_packages_is_in_the_catalogue() -> None:
    """The page is made from every definition in the source, wherever a room keeps it."""
    written = {
        code
        for package in errors.PACKAGES
        for file in (ROOT / package).rglob("*.py")
        for code in re.findall(r'= define\(\s*"([^"]+)"', file.read_text())
    }
    assert written == set(errors.whole_catalogue())


def test_every_error_code_in_a_guide_exists() -> None:
    """A code somebody reads in a guide can be looked up."""
    catalogue = errors.whole_catalogue()
    rooms = {name.partition("/")[0] for name in catalogue}
    written = [(_name(guide), code) for guide in GUIDES for code in _CODE.findall(guide.read_text())]
    assert written
    unknown = [
        f"{guide}: {code}"
        for guide, code in written
        if code.partition("/")[0] in rooms and code not in catalogue and not _is_path(code)
    ]
    assert unknown == []


def _is_path(name: str) -> bool:
    return (ROOT / name).exists()


def test_every_link_leads_somewhere() -> None:
    """A relative link names a file of the tree."""
    links = [(page, link.partition("#")[0]) for page in PAGES for link in _LINK.findall(page.read_text())]
    relative = [(page, target) for page, target in links if target and "://" not in target]
    assert relative
    assert [f"{_name(page)}: {target}" for page, target in relative if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    ("write", "names"),
    [
        (api.page, ["api.md"]),
        (audit.page, ["audit-fields.md"]),
        (machines.pages, ["desired-items.md", "identity.md"]),
        (cli.page, ["cli.md"]),
        (errors.page, ["errors.md"]),
        (metrics.page, ["metrics.md"]),
        (settings.pages, ["config-agent.md", "config-hub.md"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_committed_pages_are_what_the_code_says(
    write: Callable[[Path], None], names: list[str], tmp_path: Path
) -> None:
    """A page that drifted from the code is noticed, on any machine; the page of policy rules needs OPA (make check)."""
    write(tmp_path)
    for name in names:
        made = (tmp_path / "docs" / "reference" / name).read_text()
        assert made == (ROOT / "docs" / "reference" / name).read_text(), "run `make gen` and commit the result"


def _blocks(guide: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", guide.read_text(), re.MULTILINE | re.DOTALL)


def _commands() -> Iterator[tuple[str, str]]:
    for guide in GUIDES:
        lines = [line for block in _blocks(guide, "console") for line in block.splitlines()]
        yield from ((_name(guide), line.removeprefix("$ ")) for line in lines if line.startswith("$ cellward "))


def test_every_command_of_a_guide_exists() -> None:
    """The command is one of ``cellward``, and it has each option that the guide gives it."""
    tree = typer.main.get_command(app)
    commands = list(_commands())
    assert commands
    assert [f"{guide}: {line}: {wrong}" for guide, line in commands if (wrong := _unknown(tree, line))] == []


def _unknown(command: Any, line: str) -> set[str]:
    """Return the words of a command line that are neither a command nor an option of it."""
    words = shlex.split(line.partition("|")[0].partition(">")[0], comments=True)[1:]
    while getattr(command, "commands", None):
        if not words or words[0] not in command.commands:
            return set(words[:1]) or {"no command"}
        command = command.commands[words.pop(0)]
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    return {word for word in words if word.startswith("-")} - known


def test_every_cell_of_a_guide_is_one() -> None:
    """Cells shown in guides are read by the very loader that ``cellward apply`` uses."""
    shown = [(guide, block) for guide in GUIDES for block in _blocks(guide, "yaml") if "kind: Cell" in block]
    assert shown
    for guide, block in shown:
        assert load_manifests(block, str(guide)).cells


def test_the_first_screen_of_the_readme_has_exactly_two_commands() -> None:
    """A newcomer types two things; a third one would have to be worth it."""
    screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    commands = [line for line in screen.splitlines() if line.startswith("$ ")]
    assert commands == ["$ make demo", "$ make test"]
