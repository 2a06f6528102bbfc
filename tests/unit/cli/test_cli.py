"""Parts of the command line that need no hub."""

from __future__ import annotations

import csv
import json
import shlex
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cellward.api import schemas
from cellward.errors import CellwardError
from cli import output
from cli.cells import show_conditions
from cli.commands import app
from cli.door.answers import problem
from cli.door.client import Client, Profile, parse_server
from cli.home import ClusterProfile, Home, Trust
from cli.invitation import Address, Invitation
from cli.joining import chart_of, chart_values, join_line

CHART_VALUES = Path("charts/cellward-agent/values.yaml")
FACTS = ClusterProfile(("dev", "test"), production=False, region="eu, west", labels={"app.kubernetes.io/x": "a,b"})
TOKEN = Invitation(
    cluster="eu-1",
    token="cwj_" + "0" * 64,
    address=Address("hub.example", 7441),
    ca_pem="-----BEGIN CERTIFICATE-----\n",
    expires_at=datetime(2026, 1, 1, tzinfo=UTC),
)


@pytest.fixture
def trust(tmp_path: Path) -> Trust:
    """A trust.yaml written and read again."""
    (tmp_path / "root.json").write_text("{}")
    return Trust(
        realm="sha256:" + "a" * 64,
        root_file=tmp_path / "root.json",
        root_digest="sha256:" + "b" * 64,
        owner="ada",
        evaluation=True,
        tree_head_spki=b"key",
        clusters={"eu-1": FACTS},
        image="registry.example/agent@sha256:" + "c" * 64,
    )


def test_trust_is_read_back_as_written(tmp_path: Path, trust: Trust) -> None:
    """trust.yaml keeps everything a join line needs."""
    home = Home(tmp_path)
    home.write_trust(trust)
    assert home.trust() == trust
    assert (tmp_path / "trust.yaml").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("change", [{"more": 1}, {"realm": 1}, {"clusters": {"x": {"environments": ["dev"]}}}])
def test_malformed_trust_is_refused(tmp_path: Path, trust: Trust, change: dict[str, object]) -> None:
    """V16: an unknown field or a profile that does not say whether it is production is refused."""
    home = Home(tmp_path)
    home.write_trust(trust)
    values = yaml.safe_load((tmp_path / "trust.yaml").read_text())
    (tmp_path / "trust.yaml").write_text(yaml.safe_dump({**values, **change}))
    with pytest.raises(CellwardError) as caught:
        home.trust()
    assert caught.value.code == "cli/bad-file"


def test_values_of_the_join_are_values_of_the_chart(trust: Trust) -> None:
    """What invite prints uses names that the chart has."""

    def names(values: object, prefix: str = "") -> set[str]:
        if not isinstance(values, dict) or prefix == "facts.labels.":
            return {prefix}
        return set().union(*(names(value, f"{prefix}{key}.") for key, value in values.items()))

    chart = yaml.safe_load(CHART_VALUES.read_text())
    assert names(chart_values(trust, FACTS, TOKEN)) <= names(chart)


def test_join_line_survives_a_shell(tmp_path: Path, trust: Trust) -> None:
    """The line is one line, and each value arrives whole."""
    line = join_line(Home(tmp_path), trust, FACTS, TOKEN)
    words = shlex.split(line)
    assert "\n" not in line
    assert words.count("&&") == 2
    assert words.count("|") == 2
    assert not [word for word in words if word.startswith("--set")]
    values = yaml.safe_load((tmp_path / "join-eu-1-values.yaml").read_text())
    assert values == chart_values(trust, FACTS, TOKEN)
    assert values["facts"]["labels"] == FACTS.labels
    assert values["image"]["digest"] == f"sha256:{'c' * 64}"


@pytest.mark.parametrize(
    "text", ["y", "no", "1e3", "010", "1_0", "12:30:45", "~", "2026-01-01", "é\u2028\x85", "\U0001f600"]
)
def test_a_text_stays_a_text_for_every_reader_of_yaml(tmp_path: Path, trust: Trust, text: str) -> None:
    """Readers differ in what these mean without quotes; helm's is not ours."""
    join_line(Home(tmp_path), trust, replace(FACTS, region=text), TOKEN)
    written = (tmp_path / "join-eu-1-values.yaml").read_text()
    assert yaml.safe_load(written)["facts"]["region"] == text
    assert '"region": "' in written


def test_v6_the_token_is_not_in_the_join_line(tmp_path: Path, trust: Trust) -> None:
    """V6: what is typed is kept in histories and shown by ps, so the token is read from a file of the user's own."""
    line = join_line(Home(tmp_path), trust, FACTS, TOKEN)
    assert TOKEN.token not in line
    assert f"--from-file=token={tmp_path / 'join-eu-1-token'}" in shlex.split(line)
    assert "literal" not in line


def test_places_with_commas_reach_helm_whole(tmp_path: Path, trust: Trust) -> None:
    """Helm takes the value of --values for a list separated by commas."""
    home = Home(tmp_path / 'a, "b"')
    home.create()
    words = shlex.split(join_line(home, trust, FACTS, TOKEN))
    assert next(csv.reader([words[-1]])) == [str(home.file("join-eu-1-values.yaml"))]


@pytest.mark.parametrize("change", [{"chart": "--post-renderer=x"}, {"chart_version": "--post-renderer=x"}])
def test_a_chart_is_no_option(tmp_path: Path, trust: Trust, change: dict[str, str]) -> None:
    """A name that begins with a dash would be one."""
    with pytest.raises(CellwardError) as caught:
        join_line(Home(tmp_path), replace(trust, **change), FACTS, TOKEN)
    assert caught.value.code == "cli/bad-file"


@pytest.mark.parametrize(
    "server",
    [
        "http://hub:1", "hub:1", "https://", "https://hub:x", "https://hub:1/path", "https://hub:0", "https://hub:1?x",
        "https://hub:1#x", "https://ada:secret@hub:1", "https://[::1", "https://exämple..:1", "https://hub\n:1",
    ],
)  # fmt: skip
def test_only_https_servers_are_taken(server: str) -> None:
    """A token never goes over a connection that is not TLS."""
    with pytest.raises(CellwardError) as caught:
        parse_server(server)
    assert caught.value.code == "cli/bad-option"


@pytest.mark.parametrize(
    ("status", "data", "code", "exit_code"),
    [
        (404, {"code": "fleet/unknown-cell", "detail": "d", "hint": "h"}, "fleet/unknown-cell", 1),
        (403, {"code": "new/denial", "detail": "d", "hint": "h"}, "new/denial", 4),
        (422, {"code": "new/refusal", "detail": "d"}, "new/refusal", 4),
        (503, {"code": "new/busy", "detail": "d"}, "new/busy", 3),
        (500, {"code": "new/mistake", "detail": "d"}, "new/mistake", 1),
        (502, None, "cli/bad-answer", 1),
    ],
)
def test_problems_become_errors_with_the_exit_code_of_the_table(
    status: int, data: dict[str, str] | None, code: str, exit_code: int
) -> None:
    """The hub's own code is shown, also one this CLI does not know; the class alone decides the exit code."""
    error = problem(status, b"<html>" if data is None else json.dumps(data).encode(), "/v1/x")
    assert (error.code, error.exit_code) == (code, exit_code)


def test_missing_ca_file_is_told(tmp_path: Path) -> None:
    """Without the CA nothing is asked."""
    client = Client(Profile("https://127.0.0.1:1", tmp_path / "none.pem", "t"))
    with pytest.raises(CellwardError) as caught:
        list(client.lines("/x"))
    assert caught.value.code == "cli/bad-file"


def test_names_from_elsewhere_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Escape sequences in reasons and names are shown as question marks, and markup as text."""
    output.show_table(["a"], [["\x1b[31mred[/bold]\x07"]])
    output.say("\x1b]0;title\x07")
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "[/bold]" in shown.out


def test_table_in_a_pipe_keeps_lines_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """A long reason is not folded where a program reads it."""
    output.show_table(["a", "b"], [["x" * 300, "y"]])
    assert "x" * 300 in capsys.readouterr().out


def test_not_logged_in_is_a_usage_error_with_the_next_command(tmp_path: Path) -> None:
    """Exit code 2, what to type next, no traceback."""
    result = CliRunner().invoke(app, ["status", "--home", str(tmp_path)])
    assert result.exit_code == 2
    assert "cellward login" in result.stderr
    assert "Traceback" not in result.output


def test_v16_a_terminal_without_the_letters_does_not_end_a_command(tmp_path: Path) -> None:
    """V16: where nothing but ASCII can be shown, a red line is shown in other letters."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "check", "--home", str(tmp_path)],
        capture_output=True, text=True, check=False, env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": "."},
    )  # fmt: skip
    assert done.returncode == 2
    assert "[cli/not-initialised]" in done.stdout or "cli/not-logged-in" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("chart", "named"),
    [
        ("", str(Path("charts/cellward-agent").absolute())),
        ("oci://registry.example.com/charts/cellward-agent", "oci://registry.example.com/charts/cellward-agent"),
        ("cellward/cellward-agent", "cellward/cellward-agent"),
        ("./mine", "HOME/mine"),
        ("../mine.tgz", "PARENT/mine.tgz"),
    ],
)
def test_the_line_names_a_chart_from_any_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: Trust, chart: str, named: str
) -> None:
    """No relative path is in it: one in trust.yaml begins where that file is."""
    home = tmp_path / "home"
    (home / "mine").mkdir(parents=True)
    (home / "mine" / "Chart.yaml").touch()
    (tmp_path / "elsewhere").mkdir()
    wanted = named.replace("HOME", str(home)).replace("PARENT", str(tmp_path))
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert chart_of(Home(home), replace(trust, chart=chart)) == wanted
    assert wanted in join_line(Home(home), replace(trust, chart=chart), FACTS, TOKEN)


def test_a_chart_that_is_not_there_is_said_before_a_token_is_made(tmp_path: Path, trust: Trust) -> None:
    """The path is in the message."""
    with pytest.raises(CellwardError) as refused:
        chart_of(Home(tmp_path), replace(trust, chart="./nothing"))
    assert refused.value.code == "cli/no-chart"
    assert str(tmp_path / "nothing") in refused.value.message


def test_chart_version_goes_into_the_line(tmp_path: Path, trust: Trust) -> None:
    """A pinned chart stays pinned."""
    line = join_line(Home(tmp_path), replace(trust, chart_version="1.2.3"), FACTS, TOKEN)
    assert "--version 1.2.3" in line


def test_what_a_cluster_cannot_do_is_shown_with_its_field(capsys: pytest.CaptureFixture[str]) -> None:
    """Design §7: a reported condition, never silently dropped; it is data, so it is on standard output."""
    condition = schemas.CellCondition(
        code="cells/host-name-not-expressible", subject="spec.connections.0", message="api.example.com stays closed"
    )
    state = schemas.CellState(project="shop", cell="cart", environment="dev", cluster="eu-1", conditions=[condition])
    show_conditions([state])
    shown = capsys.readouterr().out
    assert "eu-1 cannot do all that shop/cart asks [cells/host-name-not-expressible]" in shown
    assert "spec.connections.0: api.example.com stays closed" in shown
