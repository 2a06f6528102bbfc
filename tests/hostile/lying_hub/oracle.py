"""The stage on which command lines meet a hub that lies, and what has to hold of each run; see ``test_property``."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import yaml
from tuf.api.metadata import Metadata
from typer.testing import Result

from cellward.identity.keys import load_signing_spki, spki_digest, spki_of
from cellward.identity.x509 import is_authority, load_certificates
from cli import asking, waiting
from cli.home import Home
from tests.fakes.command_line import STARTER
from tests.hostile.lying_hub.commands import CHANGING, COMMANDS, Line
from tests.hostile.lying_hub.hub import Answer, Asked, Lie, without_network
from tests.hostile.lying_hub.installation import Installation, run
from tests.hostile.lying_hub.signed import Known, Signed, digest, form, kept, record_times, spy

_AHEAD = 600_000
#: Life of what is signed of policy, milliseconds, by its kind.
_LIVES = {kind: days * 24 * 3600 * 1000 for kind, days in (("root", 365), ("targets", 180), ("snapshot", 7))}
_ADDRESS = re.compile(r"([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9a-f:.]+\]):[0-9]{1,5}")
_TOKEN = re.compile(r"cwj_(replace_)?[0-9a-f]{64}\n?")


@dataclass
class Truth:
    """What a line signs for a hub that tells the truth: forms, which of them together, and what it makes of it."""

    forms: set[str] = field(default_factory=set)
    outcomes: set[frozenset[str]] = field(default_factory=set)
    made: list[dict[str, Any]] = field(default_factory=list)


@dataclass(repr=False)
class Played:
    """One run."""

    line: Line
    home: Path
    result: Result
    signed: Signed
    payloads: list[bytes]
    began: float


@dataclass(repr=False)
class Stage:
    """An installation with its four moments; nothing in it is changed by a run."""

    installation: Installation
    places: dict[str, str]
    directory: Path
    _truths: dict[Line, Truth] = field(default_factory=dict)
    _memories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    _sequels: dict[tuple[Line, Line], bool] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Nothing of what it holds: Hypothesis would print all of it."""
        return "stage"

    def presents(self, line: Line) -> list[dict[Asked, Answer]]:
        """Moments at which a hub may be truthful: before anybody signed something newer, and afterwards."""
        if line.home == "fresh":
            return [self.installation.newborn]
        if line.words[-1] == "{home}/another":
            # A witness that begins co-signs whatever tree head the hub's key made.
            return self.installation.hub.moments
        return [self.installation.hub.moments[2], self.installation.hub.moments[-1]]

    def memory(self, home: str) -> dict[str, bytes]:
        """Whole payloads that a home remembers or has been given as proposals, by digest."""
        if home not in self._memories:
            place = self.installation.homes[home]
            self._memories[home] = kept(place) | {digest(one): one for one in _proposed(place)}
        return self._memories[home]

    def play(
        self,
        line: Line,
        present: dict[Asked, Answer],
        lies: Sequence[Lie] = (),
        always: Lie | None = None,
        home: Path | None = None,
    ) -> Played:
        """Run a line from a copy of its home, or from a home that was used already."""
        hub = self.installation.hub
        home = home or self.installation.linked(line.home, self.directory / "used")
        began = time.time() * 1000
        hub.start_lying(lies, present)
        hub.always = always
        try:
            with spy() as signed:
                result, payloads = run(home, *line.filled(self.places, home))
        finally:
            hub.stop_lying()
        return Played(line, home, result, signed, payloads, began)

    def truth(self, line: Line) -> Truth:
        """Find out what a line signs for a truthful hub, by running it."""
        if line not in self._truths:
            found = Truth()
            for present in self.presents(line):
                played = self.play(line, present)
                ended(played.result)
                forms = self.fresh(played)
                found.forms |= set(forms.values())
                found.outcomes |= {frozenset(forms.values())} if played.result.exit_code == 0 else set()
                found.made.append(made(played))
            self._truths[line] = found
        return self._truths[line]

    def fresh(self, played: Played) -> dict[bytes, str]:
        """Forms of what was signed and is not in memory."""
        memory = self.memory(played.line.home)
        before = record_times(self.installation.homes[played.line.home])
        payloads = {**memory, **{digest(one): one for one in played.payloads}}
        known = Known(payloads, played.signed.files, before)
        return {one: form(one, known) for one in played.payloads if digest(one) not in memory}

    def check(self, line: Line, present: int, lies: Sequence[Lie], always: Lie | None = None) -> Played:
        """Run a line against a hub that lies, and assert all that has to hold."""
        truth, presents = self.truth(line), self.presents(line)
        played = self.play(line, presents[present % len(presents)], lies, always)
        ended(played.result)
        forms = self.fresh(played)
        for payload, text in forms.items():
            assert text in truth.forms, (line, payload)
            self._check_clock(payload, played)
        if played.result.exit_code == 0 and truth.outcomes:
            assert frozenset(forms.values()) in truth.outcomes, (line, played.result.output)
        self._check_home(played, truth)
        return played

    def check_afterwards(self, line: Line, then: Line, lies: Sequence[Lie], always: Lie | None) -> None:
        """Run a line against a hub that lies, then another against one that does not: that one works as ever.

        Nothing to see where it would not after the truth either: a key that is given cannot be given again.
        """
        present = self.installation.hub.moments[2]
        if not self._has_sequel(line, then):
            return
        told = self.play(line, present, lies, always)
        ended(told.result)
        played = self.play(then, present, home=told.home)
        ended(played.result)
        assert played.result.exit_code == 0, (line, then, told.result.output, played.result.output)

    def _has_sequel(self, line: Line, then: Line) -> bool:
        if (line, then) not in self._sequels:
            present = self.installation.hub.moments[2]
            told = self.play(line, present)
            self._sequels[line, then] = self.play(then, present, home=told.home).result.exit_code == 0
        return self._sequels[line, then]

    def _check_clock(self, payload: bytes, played: Played) -> None:
        try:
            body = json.loads(payload)
        except ValueError:
            return
        now = time.time() * 1000
        if "schema" in body:
            assert played.began - 1000 <= _time(body["issuedAt"]) <= now + _AHEAD
            if "sequence" in body:
                used = [one["sequence"] for one in self._bodies(played.line.home) if _same_cell(one, body)]
                assert max(used, default=0) < body["sequence"] <= now + _AHEAD
        elif "_type" in body:
            life = _LIVES[body["_type"]]
            assert played.began + life - 1000 <= _time(body["expires"]) <= now + life
            if body["_type"] != "root":
                assert self._highest(played.line.home, body) < body["version"] <= now + _AHEAD

    def _bodies(self, home: str) -> Iterator[dict[str, Any]]:
        for payload in self.memory(home).values():
            body = json.loads(payload)
            if "sequence" in body:
                yield body

    def _highest(self, home: str, body: dict[str, Any]) -> int:
        place = self.installation.homes[home]
        role = body["_type"] if body["_type"] == "snapshot" or "delegations" in body else "keyring"
        record = json.loads((place / "policy-record.json").read_text())
        highest = record["snapshot"] if role == "snapshot" else record["seen"][role]["version"]
        floors = _state(place).get("floors", {})
        return int(max(highest, floors.get(role, {}).get("version", 0)))

    def _check_home(self, played: Played, truth: Truth) -> None:
        """What a machine trusts and remembers afterwards: what it did before, or what a truthful hub makes of it."""
        before, after = self.installation.homes[played.line.home], played.home
        found = made(played)
        for name, value in found.items():
            usual = [one[name] for one in truth.made if name in one]
            assert value in usual or value == _read(before / name), (played.line, name, value, usual)
        old, new = _state(before), _state(after)
        for role, floor in old.get("floors", {}).items():
            assert new["floors"][role]["version"] >= floor["version"]
        assert old.get("keys", {}).items() <= new.get("keys", {}).items()
        for cell, number in old.get("sequences", {}).items():
            assert number <= new["sequences"][cell]
        assert all(number <= time.time() * 1000 + _AHEAD for number in new.get("sequences", {}).values())
        if played.line.words[0] == "init" and (after / "trust.yaml").exists():
            load_signing_spki(Home(after).trust().tree_head_spki)


def ended(result: Result) -> None:
    """A command ends as every command may: by an exit code, without a traceback, and with nothing for a terminal."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in {0, 1, 2, 3, 4}
    assert "Traceback" not in result.output
    assert "cli/internal" not in result.output, result.output
    assert all(char.isprintable() or char in "\n\t" for char in result.output), result.output


def made(played: Played) -> dict[str, Any]:
    """Whom a run made this machine or a cluster trust, by file; what is a hub's to give is judged."""
    home, words = played.home, played.line.words
    names = ["config.yaml", "token", "hub-ca.pem", *(f"keys/{name}.pub" for name in ("root", "policy", "author"))]
    if words[0] != "init":
        names += ["root.json", "trust.yaml"]
    else:
        names = names[:3]
    found: dict[str, Any] = {name: _read(home / name) for name in names if (home / name).exists()}
    if words[:2] == ("clusters", "invite") and played.result.exit_code == 0:
        for file in (*home.glob("join-*-values.yaml"), *home.glob("agent/agent.yaml")):
            found[file.name] = _judged(yaml.safe_load(file.read_text()))
        for file in (*home.glob("join-*-token"), *home.glob("agent/join-token")):
            assert _TOKEN.fullmatch(file.read_text())
        for file in home.glob("agent/hub-ca.pem"):
            _judge_pem(file.read_text())
        text = played.result.stdout
        found["printed"] = text if words[-1] not in {"json", "yaml"} else _judged(yaml.safe_load(text))
    return found


def _judged(values: dict[str, Any]) -> dict[str, Any]:
    """Values with what a hub adds taken out, after judging that each is of its type."""
    left = {name: value for name, value in values.items() if name not in {"hub", "enrolment_address"}}
    hub = values.get("hub") or {"enrolmentAddress": values["enrolment_address"], "ca": ""}
    assert set(hub) == {"enrolmentAddress", "ca"}
    assert _ADDRESS.fullmatch(hub["enrolmentAddress"]), hub
    if hub["ca"]:
        _judge_pem(hub["ca"])
    return left


def _judge_pem(text: str) -> None:
    found = load_certificates(text.encode())
    assert found
    assert all(map(is_authority, found))
    outside = re.sub(r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n", "", text)
    assert outside == ""


def _proposed(home: Path) -> Iterator[bytes]:
    """What the proposals in a home would have signed."""
    for file in home.glob("*.json"):
        value = json.loads(file.read_text())
        if value.get("schema") == "cellward.policy-proposal/v1":
            for name in ("root", "targets", "keyring"):
                if value[name] is not None:
                    yield Metadata.from_bytes(b64decode(value[name])).signed_bytes  # type: ignore[var-annotated]


def _read(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def _state(home: Path) -> dict[str, Any]:
    file = home / "state" / "state.json"
    return json.loads(file.read_text()) if file.exists() else {}


def _time(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


def _same_cell(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one["project"], one["cell"]) == (other["project"], other["cell"])


def _places(installation: Installation) -> dict[str, str]:
    names = {
        "cart_0": "cart-0.yaml", "cart_1": "cart-1.yaml", "cart_2": "cart-2.yaml", "front_1": "front-1.yaml",
        "carol": "carol.pub", "hub_ca": "hub-ca.pem", "token": "token", "kubeconfig": "kubeconfig",
    }  # fmt: skip
    peer = next(
        name
        for name, payload in kept(installation.homes["author"]).items()
        if (body := json.loads(payload))["kind"] == "release" and (body["cell"], body["version"]) == ("cart", "1.2")
    )
    files = {name: installation.file(file) for name, file in names.items()}
    keys = installation.hub.real.keys
    return {
        **files, "peer": peer, "server": installation.hub.server, "starter": str(STARTER.absolute()),
        "timestamp": spki_digest(spki_of(keys.timestamp)), "tree_head": spki_digest(spki_of(keys.tree_head)),
    }  # fmt: skip


@contextlib.contextmanager
def staged(installation: Installation, directory: Path) -> Iterator[Stage]:
    """Let others sign newer things at the real hub, record that moment, and make lines cheap to run."""
    stage = Stage(installation, _places(installation), directory)
    # Where two homes have the line, the first: a runner without memory signs no policy, so none is newer then.
    by_text = {" ".join(line.words): line for line in reversed(COMMANDS)}
    path = f"{installation.files / 'tools'}:{os.environ['PATH']}"
    clock = SimpleNamespace(monotonic=itertools.count(step=0.4).__next__, sleep=lambda _: None)
    with (
        without_network(installation.hub),
        mock.patch.dict(os.environ, {"PATH": path}),
        mock.patch.object(waiting, "time", clock),
        mock.patch.object(asking, "time", clock),
    ):
        for text in CHANGING:
            line = by_text[text]
            home = installation.linked(line.home, directory / "used")
            result, _ = run(home, *line.filled(stage.places, home))
            assert result.exit_code in {0, 4}, (text, result.stderr)
        installation.hub.record()
        yield stage
