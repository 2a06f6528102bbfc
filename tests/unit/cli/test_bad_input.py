"""V16 at the command line: whatever it is given, it ends with a code and what to do next, never with a traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from cellward.errors import CellwardError
from cli import errors
from cli.commands import app
from cli.door.answers import problem
from cli.door.client import Profile, check_token, parse_server
from cli.home import Home, Trust, parse_yaml

T = TypeVar("T")
#: Nobody listens there, so that whatever gets as far as the network ends with "unreachable".
NOWHERE = "https://127.0.0.1:1"
_CODE = re.compile(r"\[[a-z][a-z0-9-]*/[a-z0-9-]+\]\n  next: \S")
_MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def told(result: Result) -> None:
    """Check that a command ended as every command may end."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in {0, 1, 2, 3, 4}
    assert "Traceback" not in result.output
    assert "cli/internal" not in result.output
    if result.exit_code:
        assert _CODE.search(result.stderr), result.output


def outcome(call: Callable[[], T]) -> T | CellwardError:
    """Return what a call returns, or the error it raises on purpose."""
    try:
        return call()
    except CellwardError as error:
        return error


def run(*words: str, **env: str) -> Result:
    """Run a command as it would be run in a shell."""
    return CliRunner().invoke(app, list(words), env={"NO_COLOR": "1", **env})


@_MANY
@given(st.one_of(st.text(), st.text().map("https://{}".format), st.text("[]:.@%/?#-_a0ä٣\n ").map("https://{}".format)))
@example("https://[::1")
@example("https://exämple..:1")
@example("https://hub:0")
@example("https://ada:secret@hub:1")
@example("https://hub\n:1")
@example("https://.hub")
@example("https://" + "a" * 64)
@example("https://hub:99999")
def test_v16_any_address_is_one_or_is_refused(text: str) -> None:
    """V16: whatever --server says, it is a host and a port that TLS can be asked for, or cli/bad-option."""
    found = outcome(lambda: parse_server(text))
    if isinstance(found, CellwardError):
        assert found.code == "cli/bad-option"
        return
    host, port = found
    assert 0 < port < 65536
    assert host.isascii()
    assert host.isprintable()


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("https://hub.example", "hub.example", 443),
        ("https://hub_1.example:8443/", "hub_1.example", 8443),
        ("https://[::1]:1", "::1", 1),
        ("https://bücher.example:1", "xn--bcher-kva.example", 1),
    ],
)
def test_good_addresses_are_taken(text: str, host: str, port: int) -> None:
    """What people and machines call their hubs."""
    assert parse_server(text) == (host, port)


@_MANY
@given(st.binary())
@example(b"one\ntwo\n")
@example("tökén".encode())
@example(b"one two")
@example(b" \n")
@example(b"a\x00b")
@example(b"x" * 5000)
def test_v16_any_token_is_one_word_or_is_refused(data: bytes) -> None:
    """V16: what cannot stand in a header is refused before anything is asked, and is not shown."""
    token = outcome(lambda: check_token(data, "FILE", errors.BAD_FILE))
    if isinstance(token, CellwardError):
        assert token.code == "cli/bad-file"
        assert len(data) < 8 or data.decode("latin-1") not in token.message
        return
    assert token.encode() == data.strip()
    assert token.isascii()
    assert not any(char.isspace() for char in token)


def test_token_with_a_line_break_around_it_is_taken() -> None:
    """Editors and shells end a file with a line break."""
    assert check_token(b"cwapi_x\r\n", "FILE", errors.BAD_FILE) == "cwapi_x"


@pytest.mark.parametrize(
    ("env", "code"),
    [
        ({"CELLWARD_SERVER": "https://[::1", "CELLWARD_TOKEN": "x"}, "cli/bad-option"),
        ({"CELLWARD_SERVER": "https://exämple..:1", "CELLWARD_TOKEN": "x"}, "cli/bad-option"),
        ({"CELLWARD_SERVER": NOWHERE, "CELLWARD_TOKEN": "one\ntwo"}, "cli/bad-option"),
        ({"CELLWARD_SERVER": NOWHERE, "CELLWARD_TOKEN": "tökén"}, "cli/bad-option"),
        ({"CELLWARD_SERVER": NOWHERE, "CELLWARD_TOKEN": "\udcff"}, "cli/bad-option"),
    ],
)
def test_v16_variables_are_checked_as_options_are(tmp_path: Path, env: dict[str, str], code: str) -> None:
    """V16: CELLWARD_SERVER and CELLWARD_TOKEN take the same way as --server and --token-file."""
    result = run("status", "--home", str(tmp_path), **env)
    told(result)
    assert result.exit_code == 2
    assert f"[{code}]" in result.stderr
    assert next(iter(env)) in result.stderr or "CELLWARD_TOKEN" in result.stderr


@pytest.mark.parametrize("data", [b"one\ntwo\n", "tökén\n".encode(), b"", b"\xff\xfe"])
def test_v16_token_files_are_checked_at_login_and_afterwards(tmp_path: Path, data: bytes) -> None:
    """V16: several lines, other alphabets or nothing is cli/bad-file, at login and when somebody wrote the file."""
    file = tmp_path / "token"
    file.write_bytes(data)
    login = run(
        "login", "--server", NOWHERE, "--ca-file", str(file), "--token-file", str(file), "--home", str(tmp_path / "new")
    )
    told(login)
    assert (login.exit_code, "[cli/bad-file]" in login.stderr) == (2, True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "config.yaml").write_text(f"server: {NOWHERE}\n")
    later = run("status", "--home", str(tmp_path))
    told(later)
    assert later.exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("bogus",),
        ("status", "--bogus"),
        ("status", "-o", "xml"),
        ("apply",),
        ("apply", "-f", "x" * 300),
        ("apply", "-f", "x\0y"),
        ("apply", "-f", "x", "--timeout", "soon"),
        ("apply", "-f", "x", "--valid-days", "0"),
        ("audit", "tail", "-n", "many"),
        ("audit", "export", "/"),
        ("audit", "export", "x" * 300),
        ("audit", "verify", "x" * 300),
        ("audit", "verify", "/"),
        ("cells", "show", "\udcff/\udcfe"),
        ("cells", "show", "a/b/c"),
        ("clusters", "invite", "\udcff"),
        ("delete", "a", "-e", "x"),
        ("policy", "publish", "x" * 300),
        ("policy", "publish", "."),
        ("policy", "refresh", "--passphrase-file", "x" * 300),
        ("login", "--server", NOWHERE, "--ca-file", "/", "--token-file", "/"),
        ("init", "--owner", "\udcff"),
    ],
    ids=lambda words: " ".join(words)[:30].encode("ascii", "replace").decode() or "nothing",
)
@pytest.mark.parametrize("home", ["empty", "file", "long"])
def test_v16_every_command_line_ends_with_a_code(tmp_path: Path, words: tuple[str, ...], home: str) -> None:
    """V16: unknown commands, impossible values, names no file can have, and homes that are none."""
    (tmp_path / "file").write_text("x")
    place = {"empty": tmp_path / "empty", "file": tmp_path / "file", "long": tmp_path / ("x" * 300)}[home]
    result = run(*words, CELLWARD_HOME=str(place), CELLWARD_SERVER="", CELLWARD_TOKEN="")
    if words:
        told(result)
        assert result.exit_code == 2
    else:
        assert result.exit_code == 2


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)
_TRUST = {
    "realm": "sha256:" + "a" * 64, "root": "root.json", "rootDigest": "sha256:" + "b" * 64, "owner": "ada",
    "treeHeadKey": "a2V5", "clusters": {"eu-1": {"environments": ["dev"], "production": False}},
}  # fmt: skip


@_MANY
@given(field=st.sampled_from([*_TRUST, "image", "environments", "chart"]), value=_VALUES, whole=st.booleans())
def test_v16_any_trust_yaml_is_read_or_refused(tmp_path: Path, field: str, value: Any, whole: bool) -> None:
    """V16: a trust.yaml that somebody edited is read or is cli/bad-file."""
    (tmp_path / "trust.yaml").write_text(json.dumps(value if whole else {**_TRUST, field: value}))
    found = outcome(Home(tmp_path).trust)
    assert isinstance(found, Trust) or found.code == "cli/bad-file"


@_MANY
@given(st.binary(max_size=64))
@example(b"[" * 100_000)
@example(b"server: [1, 2]\n")
@example(b"a: &a [*a]\n")
def test_v16_any_config_yaml_is_read_or_refused(tmp_path: Path, data: bytes) -> None:
    """V16: a config.yaml with anything in it."""
    (tmp_path / "config.yaml").write_bytes(data)
    (tmp_path / "token").write_text("x")
    found = outcome(Home(tmp_path).profile)
    assert isinstance(found, Profile) or found.code in {"cli/bad-file", "cli/bad-option", "cli/not-logged-in"}


@_MANY
@given(st.integers(min_value=400, max_value=599), st.one_of(st.binary(), _VALUES.map(json.dumps).map(str.encode)))
@example(500, b"[" * 100_000)
@example(404, b'{"code": ["x"], "detail": {}, "hint": 7, "details": {"a": []}}')
def test_v16_any_answer_of_a_hub_becomes_an_error(status: int, data: bytes) -> None:
    """V16: a proxy, a half answer or a newer hub: an error with a code and a next step."""
    error = problem(status, data, "/v1/x")
    assert error.hint
    assert error.exit_code in {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("lift", "shop/cart", "--signed", "--cluster", "eu-1"), "--cluster does not go with --signed"),
        (("quarantine", "shop/cart", "--signed", "--cluster", "eu-1"), "--cluster does not go with --signed"),
        (("unlock", "cluster/eu-1", "--signed", "--rekey"), "--rekey does not go with --signed"),
        (("lock", "cluster/eu-1", "--reason", "stolen", "--propose", "proposal"), "--propose goes with --signed"),
        (("unlock", "cluster/eu-1", "--propose", "proposal"), "--propose goes with --signed"),
        (("quarantine", "shop/cart", "--propose", "proposal"), "--propose goes with --signed"),
        (("lift", "shop/cart", "--propose", "proposal"), "--propose goes with --signed"),
    ],
)
def test_an_option_that_would_be_passed_over_is_refused(words: tuple[str, ...], why: str, tmp_path: Path) -> None:
    """What is asked for one cluster is not done on all of them, and what is to be proposed is not done at once."""
    result = run(*words, "--home", str(tmp_path))
    told(result)
    assert "[cli/bad-option]" in result.stderr
    assert why in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "text", ["image: a\nimage: b\n", "a: &x 1\nb: *x\n", "a: !!python/none x\n", "1: 2\n", "- a\n", ""]
)
def test_files_of_this_machine_are_read_as_strictly_as_cells(text: str) -> None:
    """A key given twice would silently win in trust.yaml, and anchors and tags have two readings."""
    with pytest.raises(CellwardError) as caught:
        parse_yaml(text.encode(), Path("trust.yaml"))
    assert caught.value.code == "cli/bad-file"
    assert "trust.yaml" in caught.value.message
