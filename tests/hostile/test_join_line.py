"""A hub tries to choose what a production cluster is told to trust, through the join line (issue: injection).

Judged by outcome: a shell runs the printed line, the real Helm renders the chart from it, and what the agent would be
told is compared with trust.yaml.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from agent.settings import TUNABLES, AgentSettings, load_settings
from cellward.errors import CellwardError
from cellward.identity import keys
from cellward.identity.x509 import make_ca, to_pem
from cellward.runtime.clock import SystemClock
from cli.commands import app
from cli.home import Home, Trust
from tests.fakes.answering_hub import AnsweringHub, answering_hub, plain_trust
from tools.parts.locate import path_of

CHART = Path("charts/cellward-agent").absolute()
TOKEN = "cwj_" + "0" * 64
CA = to_pem(make_ca("hubs", keys.new_tls_key(), SystemClock().now()).certificate).decode()
EVIL = "sha256:" + "e" * 64
FACTS = {
    "name": "eu-1", "environments": ["prod"], "production": True, "region": "y", "labels": {"a.b/c": "1e3,{x}"},
    "projects": ["shop"],
}  # fmt: skip
OPTIONS = ["--environment", "prod", "--production", "--project", "shop", "--region", "y", "--label", "a.b/c=1e3,{x}"]
#: What another hub of the same realm would honestly answer.
HONEST: dict[str, Any] = {
    "cluster": "eu-1", "token": TOKEN, "expiresAt": "2026-11-30T12:00:00Z", "enrolmentAddress": "hub.example:7441",
    "hubCaPem": CA,
}  # fmt: skip

ADDRESSES = [
    f"{{hub.example:1}},realm={EVIL}",
    "{x},facts.production=false,facts.environments={dev},facts.projects={*}",
    f"hub.example:1,realm={EVIL}",
    f"hub.example:1\nrealm: {EVIL}",
    "hub.example:7441\n",
    "$(touch pwned):1",
    "';touch pwned;':1",
    "hub.example:١٢",
    "hub.example:70000",
    "[::1%eth0]:1",
    "-x:1",
    "{{ .Release.Name }}:1",
]
AUTHORITIES = [
    f"{CA}\n    x: y\nrealm: {EVIL}\n",
    f"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{CA}",
    f"BEGIN CERTIFICATE\nagent.yaml: |\n  realm: {EVIL}\n",
    f'{{{{ .Files.Get "x" }}}}{CA}\x85  root.json: x\u2028  y: z',
    CA * 20,
    "",
]
NO_ZONE = {"expiresAt": "2026-11-30T12:00:00"}


@dataclass
class Scene:
    """A hub that answers ``HONEST`` with some values replaced, and a home logged in to it."""

    hub: AnsweringHub
    home: Path
    trust: Trust
    answer: dict[str, Any]

    def invite(self, *more: str, **answer: object) -> tuple[int, str, str]:
        """Run ``clusters invite``; returns exit code, standard output and standard error."""
        self.answer.clear()
        self.answer.update({**HONEST, **answer})
        words = ["clusters", "invite", "eu-1", *OPTIONS, *more, "--home", str(self.home)]
        done = CliRunner().invoke(app, words, env={"NO_COLOR": "1"})
        return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One hub and home for all answers."""
    home = tmp_path_factory.mktemp("join") / "a, 'home'"
    trust = plain_trust(home)
    values = yaml.safe_load((home / "trust.yaml").read_text())
    (home / "trust.yaml").write_text(yaml.safe_dump({**values, "chart": str(CHART)}))
    answer: dict[str, Any] = {}

    def say(_: str, path: str) -> tuple[int, bytes]:
        if path == "/v1/trust":
            return 200, json.dumps({"realm": trust.realm, "timestampSpki": "", "treeHeadSpki": ""}).encode()
        if path.endswith("/join-tokens"):
            return 200, json.dumps(answer).encode()
        return 200, json.dumps({"name": "eu-1", "createdAt": "2026-01-01T00:00:00Z", "createdBy": "x"}).encode()

    with answering_hub(say) as hub:
        hub.log_in(home)
        yield Scene(hub, home, trust, answer)


def rendered(line: str, directory: Path) -> dict[str, Any]:
    """Run a line in a shell, with a helm that renders instead of installing; returns the ConfigMap it makes."""
    directory.mkdir(exist_ok=True)
    (directory / "kubectl").write_text("#!/bin/sh\ncat >/dev/null\n")
    (directory / "helm").write_text(
        f'#!/bin/sh\nshift 2\nexec "{path_of("helm")}" template "$@" >"{directory}/out.yaml"\n'
    )
    for name in ("kubectl", "helm"):
        (directory / name).chmod(0o755)
    env = {"PATH": f"{directory}:/usr/bin:/bin", "HOME": str(directory)}
    done = subprocess.run(
        ["/bin/bash", "-c", line],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    assert not (directory / "pwned").exists()
    objects = [item for item in yaml.safe_load_all((directory / "out.yaml").read_text()) if item]
    # The other one is empty: it only turns a guard on.
    maps = [item for item in objects if item["kind"] == "ConfigMap" and item.get("data")]
    found: dict[str, Any] = maps[0]
    assert len(maps) == 1
    return found


def judge(scene: Scene, line: str, directory: Path) -> None:
    """What the agent would be told is trust.yaml's, and of the hub's no more than an address and certificates."""
    data = rendered(line, directory)["data"]
    told = yaml.safe_load(data["agent.yaml"])
    assert told["realm"] == scene.trust.realm
    assert told["facts"] == FACTS
    assert data["root.json"] == scene.trust.root_file.read_text().strip()
    assert told["root_file"] == "/etc/cellward/trust/root.json"
    assert set(told) == {
        "realm", "state_dir", "root_file", "enrolment_address", "hub_ca_file", "facts", "namespace", "join_token_file",
        "health_listen", "prober_image", "probe_outside",
    }  # fmt: skip
    # What runs in the namespaces of cells is the image that trust.yaml names.
    assert told["prober_image"] == scene.trust.image
    assert told["probe_outside"] == ""
    assert data["hub-ca.pem"].startswith("-----BEGIN CERTIFICATE-----\n")
    file = directory / "agent.yaml"
    file.write_text(data["agent.yaml"])
    assert load_settings(file).facts.production is True


@pytest.mark.real
def test_v6_the_line_of_an_honest_hub_says_what_trust_yaml_says(scene: Scene, tmp_path: Path) -> None:
    """Home, labels and region are full of what helm, YAML and a shell give a meaning to."""
    code, line, told = scene.invite()
    assert code == 0, told
    judge(scene, line, tmp_path / "run")


@pytest.mark.real
def test_v6_the_line_works_from_any_directory_and_none_chooses_the_chart(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the default chart, asked for in a directory that has another of that name, and run in a third one."""
    values = scene.home / "trust.yaml"
    before = values.read_text()
    forged = tmp_path / "charts" / "cellward-agent"
    forged.mkdir(parents=True)
    (forged / "Chart.yaml").write_text("apiVersion: v2\nname: cellward-agent\nversion: 0.1.0\n")
    monkeypatch.chdir(tmp_path)
    try:
        values.write_text(yaml.safe_dump({**yaml.safe_load(before), "chart": ""}))
        code, line, told = scene.invite()
        assert code == 0, told
        judge(scene, line, tmp_path / "run")
        values.write_text(yaml.safe_dump({**yaml.safe_load(before), "chart": "./charts/cellward-agent"}))
        asked = len(scene.hub.asked)
        code, line, told = scene.invite()
        assert (code, line) == (2, "")
        assert "[cli/no-chart]" in told
        assert not [one for one in scene.hub.asked[asked:] if one[1].endswith("/join-tokens")]
    finally:
        values.write_text(before)


@pytest.mark.real
@pytest.mark.parametrize(
    "answer",
    [
        *({"enrolmentAddress": text} for text in ADDRESSES),
        *({"hubCaPem": text} for text in AUTHORITIES),
        {"token": "x"},
        {"token": TOKEN + "\n"},
        {"token": f"cwj_$(touch pwned){'0' * 40}"},
        {"cluster": "eu-2"},
        {"expiresAt": "0001-01-01T00:00:00+23:00"},
        NO_ZONE,
    ],
)  # fmt: skip
def test_v6_no_answer_of_a_hub_chooses_what_a_cluster_trusts(
    scene: Scene, tmp_path: Path, answer: dict[str, str]
) -> None:
    """Refused with nothing written, or the cluster is told what trust.yaml says."""
    for left in scene.home.glob("join-*"):
        left.unlink()
    before = (scene.home / "trust.yaml").read_bytes()
    code, line, told = scene.invite(**answer)
    if code == 0:
        judge(scene, line, tmp_path / "run")
        return
    # A time without a zone is none in any answer, so the door refuses it before an invitation is read from it.
    assert f"[cli/bad-{'answer' if answer == NO_ZONE else 'invitation'}]" in told
    assert line == ""
    assert list(scene.home.glob("join-*")) == []
    assert (scene.home / "trust.yaml").read_bytes() == before


_PIECES = st.sampled_from([
    "{", "}", ",", "=", ".", "\\", "\n", "'", '"', "$(", ")", "`", ":", "1", "hub", "{{", "}}", "#", "- ", "|", "\x85",
    "\u2028", f"realm={EVIL}", f"realm: {EVIL}", "facts.production=false", "[::1]", "[", "]", "%", "--set", " ", "@",
])  # fmt: skip
_TEXTS = st.one_of(st.lists(_PIECES, max_size=8).map("".join), st.text(max_size=20))
_ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "enrolmentAddress": st.one_of(
            _TEXTS, st.tuples(_TEXTS, st.integers(-1, 70000)).map(lambda p: f"{p[0]}:{p[1]}")
        ),
        "hubCaPem": st.one_of(_TEXTS, st.builds("{}{}{}".format, _TEXTS, st.just(CA), _TEXTS)),
        "token": st.one_of(_TEXTS, _TEXTS.map(lambda text: TOKEN + text)),
        "cluster": st.one_of(st.just("eu-1"), _TEXTS),
        "expiresAt": st.one_of(st.datetimes(timezones=st.just(UTC)).map(datetime.isoformat), _TEXTS),
    },
)


@pytest.mark.real
@settings(max_examples=int(os.environ.get("CELLWARD_EXAMPLES", "30")), suppress_health_check=list(HealthCheck))
@given(answer=_ANSWERS)
def test_v6_property_no_answer_chooses_what_a_cluster_trusts(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory, answer: dict[str, str]
) -> None:
    """The same for answers that nobody thought of, and for agent.yaml of an agent that runs as a process."""
    code, line, told = scene.invite(**answer)
    assert code in {0, 1, 4}, told
    if code == 0:
        judge(scene, line, tmp_path_factory.mktemp("run"))
    directory = tmp_path_factory.mktemp("agent")
    code, _, told = scene.invite("--agent-config", str(directory / "a"), **answer)
    if code == 0:
        told_agent = load_settings(directory / "a" / "agent.yaml")
        assert told_agent.realm == scene.trust.realm
        assert told_agent.facts.model_dump(mode="json") == FACTS
        assert told_agent.root_file.read_bytes() == scene.trust.root_file.read_bytes()
        assert (directory / "a" / "hub-ca.pem").read_text().startswith("-----BEGIN CERTIFICATE-----\n")
    else:
        assert list(directory.iterdir()) == []


@pytest.mark.real
@pytest.mark.parametrize("schema", [True, False], ids=["schema", "no schema"])
@pytest.mark.parametrize("key", sorted(set(AgentSettings.model_fields) - TUNABLES))
def test_free_settings_of_the_chart_hold_no_trust(scene: Scene, tmp_path: Path, key: str, schema: bool) -> None:
    """Refused by the schema, and by the template where somebody skips the schema."""
    assert scene.invite()[0] == 0
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"settings": {key: "x"}}))
    values = Home(scene.home).file("join-eu-1-values.yaml")
    copy = tmp_path / "values.yaml"
    copy.write_bytes(values.read_bytes())
    words = ["template", "x", str(CHART), "-n", "cellward-system", "-f", str(copy)]
    words += ["-f", str(more)] + ([] if schema else ["--skip-schema-validation"])
    done = subprocess.run([str(path_of("helm")), *words], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert key in done.stderr


@pytest.mark.parametrize("key", sorted(set(AgentSettings.model_fields) - TUNABLES))
@pytest.mark.parametrize("form", ["{}", "{}__NAME", "lower"])
def test_no_variable_stands_for_what_an_agent_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, form: str
) -> None:
    """A second place that could disagree about realm, root, hub or facts is refused, also where it agrees."""
    settings_file = {
        "realm": "sha256:" + "a" * 64, "state_dir": "/x", "root_file": "/x", "enrolment_address": "hub.example:1",
        "hub_ca_file": "/x", "facts": {"name": "eu-1", "environments": ["prod"], "production": True},
    }  # fmt: skip
    file = tmp_path / "agent.yaml"
    file.write_text(yaml.safe_dump(settings_file))
    assert load_settings(file).facts.production is True
    name = f"CELLWARD_AGENT_{key.upper()}"
    monkeypatch.setenv(name.lower() if form == "lower" else form.format(name), '{"production": false}')
    with pytest.raises(CellwardError) as caught:
        load_settings(file)
    assert caught.value.code == "settings/invalid"
    assert name in caught.value.message
