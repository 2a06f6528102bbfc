"""A hub tries to steer the terminal of whoever asks it: every command, every format, every text of every answer."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cellward.identity import keys
from cellward.telemetry.terminal import escaped, escaped_json
from cli import output
from cli.commands import app
from cli.home import Home, default_home
from tests.fakes.answering_hub import AnsweringHub, answering_hub
from tests.fakes.command_line import CELL, commands_of, file_in
from tests.fakes.live_api import hub_keys
from tests.fakes.shaped_answers import problem, shaped_answer

#: Colour, a title, the clipboard (OSC 52), C1, bidi overrides, invisible and tag characters, lines that pass for ours.
NASTY = (
    "\x1b[31mred\x1b]0;title\x07\x1b]52;c;ZXZpbA==\x07\x9b2J\x90q\x9c\u202eevil\u2066\u200b\ufeff\x7f\x08\r\u2028"
    "\x85\x00\U000e0041[/bold]:smile: \nerror: forged\n  next: forged"
)
FORMATS = ("table", "json", "yaml", "name")
#: What the commands of today need; a new command gets something for its names, and is tried as far as that leads.
VALUES = {
    "cell": "shop/cart", "environment": "dev", "name": "eu-1", "role": "viewer", "server": "{server}",
    "ca_file": "{home}/hub-ca.pem", "token_file": "{home}/token", "file": "{cell}", "directory": "policies/starter",
    "cluster": "eu-1",
}  # fmt: skip
#: More words for some commands, so that they get as far as a hub's answer.
MORE = {
    "apply": ["-e", "dev"],
    "audit export": [],
    "clusters invite": ["--environment", "dev", "--no-production"],
    "policy publish": ["--skip-compile"],
}
#: Commands that must have met the hub in the sweep, or it shows nothing.
ASKING = {
    "login", "apply", "delete", "status", "check", "policy publish", "policy list", "clusters invite", "clusters list",
    "clusters command", "cells list", "cells show", "cells top", "audit tail", "audit export", "tokens create",
    "tokens list", "tokens revoke",
}  # fmt: skip


@dataclass
class Scene:
    """A hub that answers ``text`` everywhere, in one of several moods, and a home initialised by a truthful one."""

    hub: AnsweringHub
    home: Path
    realm: str = ""
    text: str = ""
    mood: str = "honest"

    def answer(self, method: str, path: str) -> tuple[int, bytes]:
        """All of ``text``; or with what must be right for a command to go on; or a refusal."""
        if self.mood == "refuses":
            return 422, problem(self.text, self.text)
        if self.mood == "fails":
            return 503, problem(self.text, "api/busy")
        found = shaped_answer(method, path, self.text)
        if found is None:
            return 200, self.text.encode("utf-8", "replace")
        if self.mood == "plausible":
            found |= {"realm": self.realm} if "realm" in found else {}
            found |= {"token": "cwj_" + "0" * 64} if path.endswith("/join-tokens") else {}
        return 200, json.dumps(found).encode()

    def run(self, name: str, command: Any, form: str, directory: Path) -> tuple[str, str]:
        """Run one command with whatever it requires; returns both streams."""
        words = name.split()
        places = {"server": self.hub.server, "home": self.home, "cell": file_in(directory, CELL)}
        for parameter in command.params:
            if parameter.required:
                value = VALUES.get(parameter.name, "x1").format(**places)
                if name in {"audit export", "audit verify"} and parameter.name == "file":
                    value = "-" if name == "audit export" else str(_export(directory, self.text))
                if name == "audit witness":
                    value = str(directory / "witness")
                if (name, parameter.name) == ("clusters command", "kind"):
                    value = "renew"
                words += [value] if parameter.param_type_name == "argument" else [parameter.opts[0], value]
        options = {word for parameter in command.params for word in parameter.opts}
        words += [*MORE.get(name, []), "--output", form]
        words += ["--home", str(self.home)] if "--home" in options else []
        words += ["--timeout", "1"] if "--timeout" in options else []
        done = CliRunner().invoke(app, words, env={"NO_COLOR": "1", "CELLWARD_DEBUG": ""})
        assert done.exception is None or isinstance(done.exception, SystemExit), (words, done.exception)
        return done.stdout, done.stderr


def _export(directory: Path, text: str) -> Path:
    """An export whose header and checkpoint are the hub's to write."""
    file = directory / "export.ndjson"
    origins = [{"origin": "hub", "uid": text, "cluster": text, "statementSpki": ""}]
    header = {"format": "cellward.audit-export/v1", "realm": text, "logOrigin": text, "treeHeadKey": text}
    file.write_text(
        "\n".join(json.dumps(line) for line in ({**header, "origins": origins}, {"index": text, "record": ""}))
    )
    return file


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all; `init` was answered truthfully."""
    home, made = tmp_path_factory.mktemp("terminal") / "home", hub_keys()
    facts: dict[str, Any] = {
        "timestampSpki": _base64(keys.spki_of(made.timestamp)), "treeHeadSpki": _base64(keys.spki_of(made.tree_head)),
    }  # fmt: skip
    holder: list[Scene] = []

    def answer(method: str, path: str) -> tuple[int, bytes]:
        here = holder[0]
        if here.mood != "honest":
            return here.answer(method, path)
        realm = Home(home).trust().realm if path == "/v1/trust/root" else ""
        return 200, json.dumps({**facts, "realm": realm}).encode()

    with answering_hub(answer) as hub:
        hub.log_in(home)
        holder.append(Scene(hub, home))
        done = CliRunner().invoke(app, ["init", "--no-passphrase", "--owner", "ada", "--home", str(home)])
        assert done.exit_code == 0, done.stderr
        trust = Home(home).trust()
        values = yaml.safe_load((home / "trust.yaml").read_text())
        values["image"] = "registry.example/agent@sha256:" + "c" * 64
        (home / "trust.yaml").write_text(yaml.safe_dump(values))
        holder[0].realm = trust.realm
        yield holder[0]


def _base64(data: bytes) -> str:
    import base64  # noqa: PLC0415

    return base64.b64encode(data).decode()


def judge(shown: str, what: object) -> None:
    """Nothing that a terminal obeys or a reader does not see, and no line that somebody else began."""
    bad = {char for char in shown if not char.isprintable() and char not in "\n\t"}
    assert not bad, (what, sorted(map(ascii, bad)))
    assert not re.search(r"^(error| *next): forged", shown, re.MULTILINE), what


COMMANDS = dict(commands_of(typer.main.get_command(app)))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("mood", ["ill", "plausible", "refuses", "fails"])
def test_every_command_shows_what_a_hub_says_and_no_terminal_obeys_it(
    scene: Scene, tmp_path: Path, mood: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command in every format, with the same text in every place that an answer has for one."""
    monkeypatch.chdir(Path(__file__).parents[2])
    scene.text, scene.mood = NASTY, mood
    met: set[str] = set()
    told = ""
    for name, command in COMMANDS.items():
        if name == "init":
            continue
        seen = len(scene.hub.asked)
        out, err = scene.run(name, command, form, tmp_path)
        judge(out + err, (name, form))
        met |= {name} if len(scene.hub.asked) > seen else set()
        told += out + err
    # In that format a token would not be shown, so none is asked for.
    assert met >= ASKING - ({"tokens create"} if form == "name" else set())
    # Shown, not swallowed: an escape can be read.
    assert "[31mred" in told


_TEXTS = st.one_of(
    st.text(st.characters(categories=("Cc", "Cf", "Zl", "Zp", "Zs", "Lo")), min_size=1),
    st.text(min_size=1),
)


@settings(max_examples=int(os.environ.get("CELLWARD_EXAMPLES", "40")), suppress_health_check=list(HealthCheck))
@given(
    text=_TEXTS,
    name=st.sampled_from(sorted(set(COMMANDS) - {"init"})),
    form=st.sampled_from(FORMATS),
    mood=st.sampled_from(["ill", "plausible", "refuses", "fails"]),
)
def test_property_no_text_of_a_hub_reaches_a_terminal_raw(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory, text: str, name: str, form: str, mood: str
) -> None:
    """The same for texts that nobody thought of."""
    scene.text, scene.mood = text, mood
    out, err = scene.run(name, COMMANDS[name], form, tmp_path_factory.mktemp("run"))
    judge(out + err, (name, form, mood))


@given(st.text())
@example(NASTY)
@example("\ud800")
def test_json_and_yaml_keep_the_very_text(text: str) -> None:
    """Escaped, never changed: whoever parses it gets what the hub said."""
    value = {"a": [text, {text: 1}], "b": True}
    shown = escaped_json(json.dumps(value, ensure_ascii=False))
    judge(shown, text)
    assert json.loads(shown) == value
    if "\ud800" not in text:
        shown = output._yaml(value)
        judge(shown, text)
        assert yaml.safe_load(shown) == value


@given(st.text())
@example(NASTY)
def test_a_name_is_one_line(text: str) -> None:
    """A script that reads names line by line gets one for each item."""
    assert "\n" not in escaped(text)
    judge(escaped(text), text)


def test_a_table_on_a_terminal_holds_our_colours_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a person looks, headings are bold; no cell brings colours, markup or emoji of its own."""

    class Terminal(io.StringIO):
        """Says that it is one."""

        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output.show_table(["a"], [[NASTY]])
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())
    judge(text, "table")
    assert "[/bold]:smile:" in text
    assert "31m" not in shown.getvalue().replace("\\x1b[31m", "")


def test_the_stand_alone_verifier_escapes_too(tmp_path: Path) -> None:
    """It shares no code with the rest, and its input is what a hub wrote."""
    file = _export(tmp_path, NASTY)
    for more in ([], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "auditverify", str(file), *more], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        judge(done.stdout + done.stderr, more)
        assert "[31mred" in done.stdout
    missing = str(tmp_path / NASTY.replace("\x00", "").replace("/", ""))
    words = [sys.executable, "-m", "auditverify", missing, "--hub-key", "x"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    judge(done.stdout + done.stderr, "error")


def test_one_module_of_the_command_line_prints() -> None:
    """What is escaped in one place stays escaped only while nothing prints elsewhere."""
    allowed = {("cli/main.py", "stdout"), ("cli/main.py", "stderr"), ("cli/context.py", "stdout")}
    names = {"print", "echo", "secho", "print_exception", "print_exc", "print_tb", "Console"}
    for file in sorted(Path("cli").rglob("*.py")):
        if str(file) == "cli/output.py":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            assert name not in names, f"{file}:{getattr(node, 'lineno', 0)} prints by itself"
            ours = not isinstance(node, ast.Attribute) or (isinstance(node.value, ast.Name) and node.value.id == "sys")
            if ours and name in {"stdout", "stderr", "__stdout__", "__stderr__"}:
                assert (str(file), name) in allowed, f"{file}:{getattr(node, 'lineno', 0)} writes by itself"
    assert default_home().name
