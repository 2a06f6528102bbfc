"""The commands of the key ceremony's guide, each run as it is written, and what an agent makes of what they publish."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
from base64 import b64decode, b64encode
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cellward.policy import trust
from cellward.policy.floors import PolicyFloors
from cli.commands import app
from cli.context import instant
from tests.fakes.command_line import STARTER, Cli

GUIDE = Path(__file__).parents[3] / "docs/how-to/key-ceremony.md"


def commands() -> list[list[str]]:
    """Every line of a console block, as words."""
    blocks = re.findall(r"```console\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return [shlex.split(line.removeprefix("$ ")) for block in blocks for line in block.splitlines()]


async def accepted(cli: Cli, floors: PolicyFloors) -> trust.ParsedSet:
    """What an agent that was installed with the first root, and has these floors, makes of what the hub serves."""
    repository = cli.api.services.policy
    roots = [(cli.home / "root.json").read_bytes()]
    while (following := await repository.fetch("root", len(roots) + 1)) is not None:
        roots.append(following)
    found = [await repository.fetch(role, None) for role in ("timestamp", "snapshot", "targets", "keyring")]
    parsed = trust.verify_set(trust.MetadataSet(tuple(roots), *(data for data in found if data is not None)))
    trust.accept(parsed, floors, instant())
    return parsed


@pytest.mark.timeout(300)
async def test_the_ceremony_of_the_guide_goes_to_two_of_three(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command works as written; an agent with its first root follows, and one owner alone signs nothing then."""
    (tmp_path / "passphrase").write_text("correct horse battery\n")
    monkeypatch.setenv("CELLWARD_PASSPHRASE_FILE", str(tmp_path / "passphrase"))
    shutil.copytree(STARTER, tmp_path / "bundles")
    await cli("init", "--owner", "ada")
    await cli("policy", "publish", str(STARTER), "--skip-compile")
    before = await accepted(cli, PolicyFloors())
    floors = trust.accept(before, PolicyFloors(), instant())
    monkeypatch.chdir(tmp_path)
    cli.home.rename(tmp_path / "ada")
    cli.home = tmp_path / "ada"
    seen: list[int] = []
    for words in commands():
        if words[0] == "export":
            name, _, value = words[1].partition("=")
            monkeypatch.setenv(name, value)
        elif words[0] != "cellward":
            await asyncio.to_thread(subprocess.run, words, check=True)
            if words[0] == "cp" and words[-1] in {"bob", "carol"}:
                for name in ("config.yaml", "token", "hub-ca.pem"):
                    shutil.copy(tmp_path / "ada" / name, tmp_path / words[-1])
        else:
            result = await asyncio.to_thread(CliRunner().invoke, app, words[1:])
            # Check sees a hub without agents; whether that is well is not the guide's matter.
            assert result.exit_code == 0, (words, result.stdout, result.stderr)
            if words[1:3] == ["trust", "submit"]:
                parsed = await accepted(cli, floors)
                floors = trust.accept(parsed, floors, instant())
                seen.append(parsed.root.version)
                assert (parsed.root.roles["root"].threshold, parsed.root.roles["targets"].threshold) == (2, 2)
    assert seen == [2, 2, 3]
    alone = await cli("policy", "publish", "bundles", "--skip-compile", code=4)
    assert "do not reach the threshold of role targets" in alone.stderr
    record = json.loads((tmp_path / "policy-record.json").read_text())
    assert [entry["owner"] for entry in record["content"]["keyring"]["entries"]] == ["ada", "dan"]
    assert len(record["roots"]) == 3


async def test_one_owner_alone_submits_nothing(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proposal below a threshold of the old or of the new root is refused, and so is one made from another record."""
    await cli("init", "--no-passphrase", "--owner", "ada")
    await cli("policy", "publish", str(STARTER), "--skip-compile")
    out = tmp_path / "upgrade.json"
    for name in ("one", "two"):
        await cli("keys", "create", name, "--no-passphrase")
    new = [str(cli.home / "keys" / f"{name}.pub") for name in ("one", "two")]
    (cli.home / "keys" / "two.pem").rename(tmp_path / "two.pem")
    await cli(
        "trust", "upgrade", "--root", new[0], "--root", new[1], "--root-threshold", "2", "--out", str(out)
    )  # fmt: skip
    unsigned = await cli("trust", "submit", str(out), code=2)
    assert "policy/bad-root" in unsigned.stderr
    await cli("trust", "sign", str(out))
    refused = await cli("trust", "submit", str(out), code=2)
    assert "policy/bad-root" in refused.stderr
    assert await cli.api.services.policy.fetch("root", 2) is None
    await cli("policy", "publish", str(STARTER), "--skip-compile")
    (tmp_path / "two.pem").rename(cli.home / "keys" / "two.pem")
    stale = await cli("trust", "sign", str(out), code=4)
    assert "policy/bad-proposal" in stale.stderr


async def test_a_signer_is_shown_all_that_a_proposal_would_bring(installed: Cli, tmp_path: Path) -> None:
    """Who may sign what, what is enforced where, where the hub's key counts, and what is locked: or it is refused."""
    (tmp_path / "bindings.yaml").write_text(
        "bindings: [{name: only, bundle: starter, mode: shadow, selector: {environments: [dev]}}]\n"
        "thresholds: {release: 2}\nhubAttestation: {environments: [dev]}\n"
    )
    await installed("lock", "cluster/eu-9", "--reason", "stolen", "--signed")
    file = tmp_path / "proposal.json"
    bindings = ("--bindings", str(tmp_path / "bindings.yaml"))
    await installed("policy", "publish", str(STARTER), *bindings, "--skip-compile", "--propose", str(file))
    look = ("trust", "sign", str(file), "--dry-run", "-o", "json")
    shown = json.loads((await installed(*look)).stdout)
    assert shown["bindings"][0].startswith("only: ")
    assert " shadow, " in shown["bindings"][0]
    assert shown["bindings"][1:] == [
        "signers needed: release 2", "objects one change may delete: 10", "the hub's own key counts in: dev",
    ]  # fmt: skip
    assert "deployment" in shown["authors"][0]
    (lock,) = shown["revocations"]
    assert re.fullmatch(r'locks cluster/eu-9 since \S+Z: "stolen"', lock)
    assert any(line.startswith("+ bindings/bindings.json thresholds.release: 2") for line in shown["fields"])
    assert set(shown["expires"]) == {"root", "targets", "keyring"}
    value = json.loads(file.read_text())
    left = {path: data for path, data in value["content"].items() if path != "bindings/bindings.json"}
    file.write_text(json.dumps({**value, "content": left}))
    assert "[policy/bad-proposal]" in (await installed(*look, code=4)).stderr


async def proposed(cli: Cli, directory: Path, *words: str) -> Path:
    """A proposal, made by a command with --propose."""
    file = directory / f"proposal-{len(list(directory.glob('proposal-*')))}.json"
    await cli(*words, "--propose", str(file))
    return file


def whole(text: str) -> str:
    """Lines as they were before they were broken at the terminal's width."""
    return text.replace("\n    | ", "")


async def author(cli: Cli, name: str) -> tuple[str, ...]:
    """The words that add an author, whose key is made first."""
    await cli("keys", "create", name, "--no-passphrase")
    return ("author", "add", name, "--key", str(cli.home / "keys" / f"{name}.pub"))


async def owners(cli: Cli) -> dict[str, str]:
    """Owners and states of the keyring in the record."""
    record = json.loads((cli.home / "policy-record.json").read_text())
    return {entry["owner"]: entry["state"] for entry in record["content"]["keyring"]["entries"]}


@pytest.mark.parametrize("between", ["nothing", "refresh"])
async def test_a_proposed_author_is_signed_and_submitted(installed: Cli, tmp_path: Path, between: str) -> None:
    """Proposals about the keyring or revocations can be written, signed and submitted, also past a refresh."""
    file = await proposed(installed, tmp_path, *await author(installed, "dan"))
    if between == "refresh":
        await installed("policy", "refresh")
    shown = await installed("trust", "sign", str(file))
    assert re.search(r'\+ author \w{64} of "dan", active: ', whole(shown.stderr))
    await installed("trust", "submit", str(file))
    assert (await owners(installed))["dan"] == "active"
    locks = await proposed(installed, tmp_path, "lock", "cluster/eu-9", "--reason", "stolen", "--signed")
    shown = await installed("trust", "sign", str(locks))
    assert "+ locks cluster/eu-9" in shown.stderr
    await installed("trust", "submit", str(locks))
    await installed("policy", "refresh")


async def test_a_proposal_that_another_change_overtook_is_refused(installed: Cli, tmp_path: Path) -> None:
    """Of two proposals from one record one is published; the other, signed before or after, would undo it."""
    dan, eve = await author(installed, "dan"), await author(installed, "eve")
    signed, unsigned = await proposed(installed, tmp_path, *dan), await proposed(installed, tmp_path, *dan)
    await installed("trust", "sign", str(signed))
    await installed(*eve)
    assert "[policy/bad-proposal]" in (await installed("trust", "sign", str(unsigned), code=4)).stderr
    assert "[policy/bad-proposal]" in (await installed("trust", "submit", str(signed), code=4)).stderr
    assert set(await owners(installed)) == {"ada", "eve"}
    again = await proposed(installed, tmp_path, *dan)
    await installed("trust", "sign", str(again))
    await installed("trust", "submit", str(again))
    assert set(await owners(installed)) == {"ada", "dan", "eve"}


async def test_the_differences_are_shown_before_a_key_is_opened(
    installed: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, thresholds, bindings and authors that change are told first; a no, or no key, leaves the file as it was."""
    new = []
    for name in ("one", "two"):
        await installed("keys", "create", name, "--no-passphrase")
        new += ["--root", str(installed.home / "keys" / f"{name}.pub")]
    file = tmp_path / "upgrade.json"
    await installed("trust", "upgrade", *new, "--root-threshold", "2", "--out", str(file))
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("typer.testing._NamedTextIOWrapper.isatty", lambda *_: True)
        words = ["trust", "sign", str(file), "--home", str(installed.home)]
        said_no = await asyncio.to_thread(CliRunner().invoke, app, words, input="n\n")
    assert said_no.exit_code == 1
    assert "[cli/not-signed]" in said_no.stderr
    assert file.read_bytes() == before
    (installed.home / "keys" / "one.pem").write_text("no key")
    broken = await installed("trust", "sign", str(file), code=2)
    assert file.read_bytes() == before
    for told in (said_no, broken):
        line = next(line for line in whole(told.stderr).splitlines() if "role root" in line)
        assert re.fullmatch(r"  ~ role root: 1 of 1 -> 2 of 2; keys \+\w{64} \+\w{64} -\w{64}", line)


async def test_a_record_older_than_what_is_known_here_signs_nothing(installed: Cli, tmp_path: Path) -> None:
    """A proposal made from an older record, and shown against it, would hide what was published since."""
    record = installed.home / "policy-record.json"
    old = record.read_bytes()
    file = await proposed(installed, tmp_path, *await author(installed, "dan"))
    await installed(*await author(installed, "eve"))
    record.write_bytes(old)
    before = file.read_bytes()
    assert "[policy/record-older]" in (await installed("trust", "sign", str(file), code=4)).stderr
    assert file.read_bytes() == before


async def test_v15_a_proposal_brings_no_keys_that_its_signers_are_not_shown(installed: Cli, tmp_path: Path) -> None:
    """Not for the keyring role of the time after, which is in no list of what is signed; and no key is good again."""
    dan = await author(installed, "dan")
    await installed(*dan)
    await installed("author", "revoke", "dan", "--compromised")
    file = await proposed(installed, tmp_path, "policy", "minimum", "shop")
    honest = json.loads(file.read_text())
    record = json.loads(b64decode(honest["record"]))
    spki = "".join((installed.home / "keys" / "dan.pub").read_text().splitlines()[1:-1])
    role = {"keys": [*record["keyringRole"]["keys"], spki], "threshold": 1}
    keyring = record["content"]["keyring"]
    lifted = {**keyring, "entries": [{**one, "state": "active"} for one in keyring["entries"]]}
    for change, why in (
        ({"keyringRole": role}, "keyringRole"),
        ({"content": {**record["content"], "keyring": lifted}}, "agents would refuse the keyring"),
    ):
        forged = b64encode(json.dumps({**record, **change}).encode()).decode()
        file.write_text(json.dumps({**honest, "record": forged}))
        refused = await installed("trust", "sign", str(file), code=4)
        assert "[policy/bad-proposal]" in refused.stderr
        assert why in refused.stderr
    file.write_text(json.dumps(honest))
    await installed("trust", "sign", str(file))
    await installed("trust", "submit", str(file))


async def test_a_proposal_numbered_ahead_of_the_clock_is_not_signed(
    installed: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its signature would be worth nothing today, and a floor above every number once the clock is there."""
    dan = await author(installed, "dan")
    with monkeypatch.context() as patch:
        for module in ("author", "policy"):
            patch.setattr(f"cli.{module}.instant", lambda: instant() + timedelta(hours=1))
        file = await proposed(installed, tmp_path, *dan)
    before = file.read_bytes()
    assert "[document/number-ahead]" in (await installed("trust", "sign", str(file), code=4)).stderr
    assert file.read_bytes() == before


async def test_v16_a_proposal_that_reads_in_two_ways_is_refused(installed: Cli, tmp_path: Path) -> None:
    """Roles that are no text, or a key that is there twice: another reader would show another proposal."""
    file = await proposed(installed, tmp_path, "policy", "publish", str(STARTER), "--skip-compile")
    honest = json.loads(file.read_text())
    twice = json.dumps({"fresh": honest["fresh"]}).removesuffix("}") + "," + json.dumps(honest).removeprefix("{")
    for text in (json.dumps({**honest, "fresh": [["targets"]]}), json.dumps({**honest, "fresh": [{}]}), twice):
        file.write_text(text)
        refused = await installed("trust", "sign", str(file), code=4)
        assert "[policy/bad-proposal]" in refused.stderr
    file.write_text(json.dumps(honest))
    await installed("trust", "sign", str(file))
