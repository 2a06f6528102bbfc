"""Bad input to a hub that is a process: an error with a stable code, nothing changed, the process alive (V16).

What single commands say about bad files is in ``tests/integration/api``; here one hub gets all of it, and what it holds
is compared before and after.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import sqlite3
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
import yaml

from tests.fakes.bare_agent import BareAgent, failure, stream
from tests.fakes.installation import Installation, cell_text, open_hub
from tests.fakes.ports import FakeLinkHub
from tools.demo.processes import Cli

pytestmark = [pytest.mark.real, pytest.mark.timeout(120), pytest.mark.xdist_group("faults-hub")]


@pytest.fixture(scope="module")
def hub() -> Iterator[Installation]:
    """Return a hub with policy published and no cluster."""
    with open_hub() as running:
        yield running
        assert running.verify_audit()["records"] >= 1, "what it recorded of all of this verifies"


def held(hub: Installation) -> dict[str, Any]:
    """Everything the hub holds that bad input could have changed; audit records of refusals are none of it."""
    api = hub.stage.api
    policy = api.get("/policy")
    with contextlib.closing(sqlite3.connect(f"file:{hub.stage.hub_data / 'hub.db'}?mode=ro", uri=True)) as database:
        counts = {table: _count(database, table) for table in ("documents", "tuf_metadata", "tuf_targets")}
    return {
        "published": policy["published"],
        "bundles": policy["bundles"],
        "clusters": [(one["name"], one["joined"], one["uid"]) for one in api.get("/clusters")["items"]],
        "cells": api.get("/cells")["items"],
        "counts": counts,
    }


def _count(database: sqlite3.Connection, table: str) -> int:
    return int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - our own names


def _records(hub: Installation) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{hub.stage.hub_data / 'hub.db'}?mode=ro", uri=True)) as database:
        return _count(database, "audit_events") + _count(database, "audit_records")


@pytest.fixture
def untouched(hub: Installation) -> Iterator[None]:
    """Compare what the hub holds before and after, and its process; its record only grew."""
    pid, before, records = hub.stage.hub.pid, held(hub), _records(hub)
    yield
    hub.stage.hub.check()
    assert hub.stage.hub.pid == pid
    assert held(hub) == before
    assert _records(hub) >= records


CONNECTED = "  connections: [{{cell: {}, endpoint: main, env: PEER}}]\n  endpoints:\n"
ENDPOINT = "    main: {component: web, port: main, visibility: project}\n"


def _connected(name: str, peer: str) -> str:
    return cell_text(1, name) + CONNECTED.format(peer) + ENDPOINT


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [", "cells/not-yaml"),
        ("x" * (1024 * 1024 + 1), "cli/bad-file"),
        (cell_text(1) + "unknown: 1\n", "cells/bad-field"),
        (_connected("one", "two") + "---\n" + _connected("two", "one"), "cells/cycle"),
        (cell_text(1, "-bad"), "cells/bad-field"),
        (cell_text(1) + "---\n" + cell_text(1), "cells/duplicate"),
        (_connected("one", "nobody"), "cells/unknown-target"),
        ("a: &a [*a]", "cells/yaml-alias"),
    ],
    ids=["malformed", "oversized", "unknown-field", "cycle", "bad-name", "duplicate", "unknown-target", "alias-bomb"],
)
def test_bad_cells_are_refused_v16(hub: Installation, untouched: None, tmp_path: Path, text: str, code: str) -> None:
    """`apply` ends with 2 and the code, without a traceback; nothing was uploaded and no sequence used."""
    file = tmp_path / "cell.yaml"
    file.write_text(text)
    before = _remembered(hub)
    done = hub.stage.cli.run("apply", "-f", str(file), "--environment", "development", accept=(2,))
    assert f"[{code}]" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert _remembered(hub) == before


@pytest.mark.parametrize(
    ("rego", "root", "code"),
    [
        ("package base\n\ndeny contains x if { input.y }\n", "base", "policy/does-not-compile"),
        ("package system.authz\n\ndeny := set()\n", "system", "policy/bad-roots"),
    ],
    ids=["does-not-compile", "roots-system"],
)
def test_bad_bundles_are_refused_v16(
    hub: Installation, untouched: None, tmp_path: Path, rego: str, root: str, code: str
) -> None:
    """`policy publish` ends with 2 and the code; what is served is what was served."""
    named = {"name": "base", "version": "1.0.0", "entrypoint": f"{root}/deny"}
    manifest = {"revision": "1.0.0", "roots": [root], "rego_version": 1, "metadata": {"cellward": named}}
    (tmp_path / ".manifest").write_text(json.dumps(manifest))
    (tmp_path / "base.rego").write_text(rego)
    done = hub.stage.cli.run("policy", "publish", str(tmp_path), accept=(2,))
    assert f"[{code}]" in done.stderr
    assert "Traceback" not in done.stderr


def _remembered(hub: Installation) -> dict[str, bytes]:
    """Every file of the command line's local state."""
    state = hub.stage.home / "state"
    return {str(file.relative_to(state)): file.read_bytes() for file in state.rglob("*") if file.is_file()}


def _post(hub: Installation, path: str, body: bytes, token: str | None = None) -> tuple[int, str]:
    """POST raw bytes; returns the status and the code of the problem."""
    given = token if token is not None else (hub.stage.hub_data / "admin.token").read_text().strip()
    request = urllib.request.Request(
        f"https://{hub.stage.api_address}/v1{path}",
        data=body,
        headers={"Authorization": f"Bearer {given}", "Content-Type": "application/json"},
    )
    context = ssl.create_default_context(cafile=str(hub.directory / "hub-ca.pem"))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())["code"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/policy/publications", b"{"),
        ("/policy/publications", b'{"metadata": [], "targets": [], "extra": 1}'),
        ("/documents", b"[]"),
        ("/documents", b'{"envelopes": ["!!!"]}'),
        ("/clusters", b'{"name": "../x"}'),
        ("/clusters", b"\xff\xfe"),
        ("/clusters", b"[" * 100_000),
    ],
)
def test_bad_requests_are_problems_with_a_code_v16(hub: Installation, untouched: None, path: str, body: bytes) -> None:
    """A 4xx with a code; never a 500."""
    status, code = _post(hub, path, body)
    assert 400 <= status < 500, code
    assert "/" in code


def test_a_target_of_the_wrong_length_is_refused_v16(hub: Installation, untouched: None) -> None:
    """A target with bytes more than its signed length: refused at the door, with the code agents would give."""
    publication = _replayed_publication(hub)
    publication["targets"][0]["data"] = publication["targets"][0]["data"][:-4] + "AAAA"
    status, code = _post(hub, "/policy/publications", json.dumps(publication).encode())
    assert (status, code) == (422, "policy/unverified")


def _replayed_publication(hub: Installation) -> dict[str, Any]:
    """What was published, as an upload once more."""
    with contextlib.closing(sqlite3.connect(f"file:{hub.stage.hub_data / 'hub.db'}?mode=ro", uri=True)) as database:
        metadata = database.execute("SELECT role, version, data FROM tuf_metadata WHERE role!='timestamp'").fetchall()
        targets = database.execute("SELECT digest, data FROM tuf_targets").fetchall()
    return {
        "metadata": [
            {"role": role, "version": version, "data": base64.b64encode(data).decode()}
            for role, version, data in metadata
        ],
        "targets": [{"digest": digest, "data": base64.b64encode(data).decode()} for digest, data in targets],
    }


def test_wrong_tokens_and_roles_are_denied(hub: Installation, untouched: None, tmp_path: Path) -> None:
    """An unknown token is 401, a viewer who writes is 403; the CLI ends with 4 and says which role is needed."""
    assert _post(hub, "/clusters", b'{"name": "eu-9"}', token="cwapi_wrong") == (401, "api/bad-token")
    viewer = tmp_path / "viewer.token"
    hub.stage.cli.run("tokens", "create", "--name", "vera", "--role", "viewer", "--file", str(viewer))
    token = viewer.read_text().strip()
    assert _post(hub, "/clusters", b'{"name": "eu-9"}', token=token) == (403, "api/role-too-low")
    home = tmp_path / "home"
    shutil.copytree(hub.stage.home, home, ignore=shutil.ignore_patterns("tmp"))
    server, ca = f"https://{hub.stage.api_address}", str(hub.directory / "hub-ca.pem")
    cli = Cli(home)
    cli.run("login", "--server", server, "--ca-file", ca, "--token-file", str(viewer))
    # A viewer reads what an administrator reads, whatever other tests have left there.
    known = [cluster["name"] for cluster in hub.stage.cli.json("clusters", "list")]
    assert [cluster["name"] for cluster in cli.json("clusters", "list")] == known
    options = ("--environment", "development", "--no-production", "--agent-config", str(tmp_path / "agent"))
    denied = cli.run("clusters", "invite", "eu-9", *options, accept=(4,))
    assert "[api/role-too-low]" in denied.stderr
    assert [cluster["name"] for cluster in hub.stage.cli.json("clusters", "list")] == known


# -- joining and the link ----------------------------------------------------------------------------------------------


def _here(hub: Installation) -> FakeLinkHub:
    """What a bare agent asks of a hub: its addresses and its CA; here those of the process."""
    listen = yaml.safe_load((hub.directory / "hub.yaml").read_text())["listen"]
    ca = hub.stage.api.get("/trust")["hubCaPem"].encode()
    return cast(
        FakeLinkHub,
        SimpleNamespace(
            enrolment=SimpleNamespace(address=listen["enrolment"]),
            link=SimpleNamespace(address=listen["link"]),
            hub=SimpleNamespace(authority=SimpleNamespace(hub_ca_pem=ca)),
        ),
    )


def _invited(hub: Installation, name: str) -> str:
    directory = hub.directory / "invitations" / name
    options = ("--environment", "development", "--no-production", "--agent-config", str(directory))
    hub.stage.cli.run("clusters", "invite", name, *options)
    return (directory / "join-token").read_text().strip()


def _realm(hub: Installation) -> str:
    return str(yaml.safe_load((hub.stage.home / "trust.yaml").read_text())["realm"])


async def test_v6_spent_expired_and_unknown_tokens_are_refused(hub: Installation) -> None:
    """V6: a token is spent by one key; one that has expired or was never made says the same; nobody is bound by it."""
    here, realm = _here(hub), _realm(hub)
    token, late = _invited(hub, "eu-5"), _invited(hub, "eu-8")
    first = BareAgent("eu-5")
    await first.join(here, token, realm=realm)
    before = held(hub)
    denied = grpc.StatusCode.PERMISSION_DENIED
    assert await failure(BareAgent("eu-5").join(here, token, realm=realm)) == (denied, "store/token-spent")
    status, code = await failure(BareAgent("eu-5").join(here, "cwj_unknown", realm=realm))
    assert (status in {denied, grpc.StatusCode.UNAUTHENTICATED}, code) == (True, "authority/bad-token")
    with contextlib.closing(sqlite3.connect(hub.stage.hub_data / "hub.db", timeout=20)) as database, database:
        changed = database.execute("UPDATE join_tokens SET expires_at=1577836800000000").rowcount
    assert changed >= 1
    assert await failure(BareAgent("eu-8").join(here, late, realm=realm)) == (denied, "store/token-expired")
    assert held(hub) == before
    hub.stage.hub.check()


async def test_v13_v16_frames_out_of_order_close_one_stream_only(hub: Installation) -> None:
    """V13, V16: the stream ends with the code; the other agent's stays open, and the same agent may come again."""
    here, realm = _here(hub), _realm(hub)
    wrong, good = BareAgent("eu-6"), BareAgent("eu-7")
    for agent in (wrong, good):
        await agent.join(here, _invited(hub, agent.name), realm=realm)
    async with good.channel(here) as other, stream(other, "s-good") as healthy:
        await healthy.send(hello=good.hello(realm=realm))
        await healthy.receive("welcome")
        for attempt in range(2):
            async with wrong.channel(here) as channel, stream(channel, f"s-{attempt}") as link:
                await link.send(hello=wrong.hello(realm=realm))
                await link.receive("welcome")
                await link.send(seq=7, heartbeat={})
                status, code = await link.ended()
                assert (status is grpc.StatusCode.INVALID_ARGUMENT, code) == (True, "link/out-of-order")
        await healthy.send(heartbeat={})
        clusters = {one["name"]: one["connected"] for one in hub.stage.api.get("/clusters")["items"]}
        assert clusters["eu-7"] is True
    hub.stage.hub.check()
