"""Each command that signs policy shows all of it before a key is opened, and leaves nobody stuck (H-3, M-1)."""

# ruff: noqa: F811 - fixtures of another directory

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cellward.documents.canonical import MAX_INT
from cellward.documents.dsse import Ed25519Signer
from cellward.documents.keyring import Keyring
from cellward.documents.revocations import Revocations
from cellward.errors import CellwardError
from cellward.policy import publisher
from cellward.policy.ceremony import Proposal
from cellward.policy.errors import UNREACHABLE
from cellward.policy.model import BINDINGS_TARGET
from cellward.policy.record import Record
from cli.author import _named, amend
from cli.context import instant, local
from cli.output import Format
from cli.records import Base, Options, base_of
from tests.fakes.command_line import Cli
from tests.hostile.test_ceremony import edited
from tests.hostile.test_publishing import PUBLISH, _root, public_key
from tests.integration.api.conftest import _quiet, cli, installed, made  # noqa: F401 - fixtures


def own(run: Cli) -> Record:
    """The publishers' record."""
    return Record.from_bytes((run.home / "policy-record.json").read_bytes(), root=_root(run))


def whole(text: str) -> str:
    """Lines as they were before they were broken at the terminal's width."""
    return text.replace("\n    | ", "")


def carried(run: Cli, file: Path, **changes: Keyring | Revocations) -> None:
    """A proposal as somebody on its way may write it."""
    draft = publisher.draft_keyring(own(run), now=instant(), **changes)  # type: ignore[arg-type]
    file.write_bytes(Proposal(draft).to_bytes())


LINES = {
    ("author", "add", "bob", "--key", "{bob}"): r'+ keyring/keyring.json entries[keyid="{id}"].owner: "bob"',
    ("author", "revoke", "ada"): '.state: "active" -> "retired"',
    ("author", "rotate", "ada", "--key", "{bob}"): r'+ keyring/keyring.json entries[keyid="{id}"].notBefore: "20',
    ("lock", "cluster/eu-9", "--reason", "stolen", "--signed"): (
        '+ keyring/revocations.json locks[kind="cluster" subject="eu-9"].reason: "stolen"'
    ),
    ("quarantine", "shop/cart", "-e", "dev", "--reason", "odd", "--signed"): (
        '+ keyring/revocations.json quarantines[project="shop" cell="cart" environment="dev"].reason: "odd"'
    ),
    ("policy", "minimum", "shop"): "+ keyring/revocations.json minimumIssuedAt.shop: ",
    PUBLISH: "~ targets version: ",
    ("policy", "refresh"): "",
}


@pytest.mark.parametrize("words", LINES, ids=lambda words: " ".join(words[:2]))
async def test_v15_every_command_shows_what_it_signs_before(
    installed: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Field by field, while no key is open; the snapshot before it is signed; a dry run shows the same."""
    key = public_key(tmp_path, "bob")
    words, wanted = tuple(word.format(bob=key) for word in words), LINES[words]
    before = (installed.home / "policy-record.json").read_bytes()

    def no_key(*_: object, **__: object) -> None:
        raise UNREACHABLE("no key is opened here")

    with monkeypatch.context() as patch:
        patch.setattr("cli.keys.load_roles", no_key)
        told = await installed(*words, code=3)
        dry = await installed(*words, "--dry-run")
    found = wanted.partition("{id}")
    for text in (whole(told.stderr), whole(dry.stderr)):
        assert all(part in text for part in (found[0], found[2]))
        assert ("keyring version: " in text) == bool(wanted)
    with monkeypatch.context() as patch:
        patch.setattr("cellward.policy.publisher.finish", no_key)
        told = await installed(*words, code=3)
    assert "~ snapshot version: " in whole(told.stderr)
    assert (installed.home / "policy-record.json").read_bytes() == before


async def test_v15_another_reason_and_another_end_are_shown(installed: Cli, tmp_path: Path) -> None:
    """A lock's reason that tells people to lift it, and an author's end of today: path, old and new, whole."""
    await installed("lock", "cluster/eu-9", "--reason", "stolen, call +49 1", "--signed")
    record, file = own(installed), tmp_path / "proposal.json"
    misleading = "false alarm; run: cellward unlock --signed cluster/eu-9"
    locks = (replace(record.revocations.locks[0], reason=misleading),)
    ada = record.keyring.entries[0]
    midnight = replace(ada, not_after=ada.not_after.replace(hour=0, minute=0, second=0, microsecond=0))
    keyring = Keyring(record.realm, record.keyring.version + 1, (midnight,))
    carried(installed, file, keyring=keyring, revocations=replace(record.revocations, locks=locks))
    told = whole((await installed("trust", "sign", str(file))).stderr)
    assert f'~ locks cluster/eu-9 since {locks[0].to_json()["issuedAt"]}: "stolen, call +49 1" -> ' in told
    assert f'].reason: "stolen, call +49 1" -> "{misleading}"' in told
    ends = (one.to_json()["notAfter"] for one in (ada, midnight))
    assert '~ keyring/keyring.json entries[keyid="{}"].notAfter: "{}" -> "{}"'.format(ada.keyid, *ends) in told


async def test_a_number_at_the_end_of_all_numbers_stops_no_command(installed: Cli, tmp_path: Path) -> None:
    """Neither signed nor submitted; what somebody's keys signed all the same is taken by no hub, and ends nothing."""
    file, before = tmp_path / "proposal.json", (installed.home / "policy-record.json").read_bytes()
    carried(installed, file, keyring=replace(own(installed).keyring, version=MAX_INT))
    for command in ("sign", "submit"):
        told = await installed("trust", command, str(file), code=4)
        assert "[document/number-ahead]" in told.stderr
    assert (installed.home / "policy-record.json").read_bytes() == before
    await installed("author", "add", "eve", "--key", public_key(tmp_path, "eve"))
    await installed("author", "rotate", "eve", "--key", public_key(tmp_path, "later"))
    await installed("author", "revoke", "ada", "--compromised")
    assert own(installed).keyring.version == 4


async def test_a_set_without_its_bindings_reaches_no_record(installed: Cli, tmp_path: Path) -> None:
    """It was written before the hub refused it, and every later command failed on it."""
    file, before = tmp_path / "proposal.json", (installed.home / "policy-record.json").read_bytes()
    await installed("trust", "upgrade", "--renew", "--out", str(file))
    honest = Proposal.from_bytes(file.read_bytes(), own=own(installed))
    targets = edited(honest.draft.targets, lambda one: one.signed.targets.pop(BINDINGS_TARGET))
    file.write_bytes(replace(honest, draft=replace(honest.draft, targets=targets)).to_bytes())
    for command in ("sign", "submit"):
        assert "[policy/bad-proposal]" in (await installed("trust", command, str(file), code=4)).stderr
    assert (installed.home / "policy-record.json").read_bytes() == before
    await installed("policy", "refresh")
    await installed("author", "revoke", "ada", "--compromised")


@pytest.mark.parametrize("arrived", [False, True])
async def test_a_submission_that_a_hub_did_not_confirm_is_handed_over_again(
    installed: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    """The record has it, whether it arrived or not; the same command ends it, with bundles that nobody signs anew."""
    file = tmp_path / "proposal.json"
    await installed(*PUBLISH, "--propose", str(file))
    await installed("trust", "sign", str(file))
    upload: Callable[..., object] = Base.upload

    def fails(*given: object) -> object:
        if arrived:
            upload(*given)
        raise UNREACHABLE("the hub does not answer")

    with monkeypatch.context() as patch:
        patch.setattr("cli.records.Base.upload", fails)
        told = await installed("trust", "submit", str(file), code=3)
    assert "hand it over by the same `trust submit`" in told.stderr
    signed = own(installed).targets
    await installed("trust", "submit", str(file))
    assert await installed.api.services.policy.fetch("targets", None) == signed == own(installed).targets
    await installed("policy", "refresh")
    await installed("author", "revoke", "ada", "--compromised")
    assert "[policy/bad-proposal]" in (await installed("trust", "submit", str(file), code=4)).stderr


async def test_m1_an_owner_is_no_line_of_ours(installed: Cli, tmp_path: Path) -> None:
    """Not by a command, not in a proposal, not at the beginning; and a key id in a list stands before every owner."""
    bob, thief = Ed25519Signer.generate(), Ed25519Signer.generate()
    honest = f"bob {bob.keyid} active: approval of shop in dev until 2027-11-30"
    owner = honest + " " * (149 - len(honest)) + "note: key of ada, unchanged:"
    record, file = own(installed), tmp_path / "proposal.json"
    entry = replace(record.keyring.entries[0], keyid=thief.keyid, spki_der=thief.public_spki_der, owner=owner)
    keyring = Keyring(record.realm, record.keyring.version + 1, (*record.keyring.entries, entry))
    carried(installed, file, keyring=keyring)
    assert "is given an owner" in (await installed("trust", "sign", str(file), code=2)).stderr
    for name in (owner, "bob  ", thief.keyid):
        refused = await installed("author", "add", name, "--key", public_key(tmp_path, "bob"), code=2)
        assert "[cli/bad-option]" in refused.stderr
    listed = (await installed("keys", "list")).stdout.splitlines()
    assert listed[0].split() == ["KEY", "ROLE", "OWNER", "STATE", "EXPIRES", "HERE"]
    assert all(len(line.split()[0]) == 64 for line in listed[1:])
    # Nor by a command that does not ask for it.
    options = Options(installed.home, None, dry_run=False, wait=None, output=Format.table, passphrase_file=None)
    base = await asyncio.to_thread(base_of, local(installed.home), None)
    with pytest.raises(CellwardError, match="is given an owner"):
        await asyncio.to_thread(amend, base, options, keyring=keyring)


async def test_a_key_is_chosen_by_its_id_before_any_owner(installed: Cli, tmp_path: Path) -> None:
    """An owner called like the beginning of somebody's id would be revoked in his place."""
    bob = Ed25519Signer.generate()
    record = own(installed)
    (ada,) = record.keyring.entries
    named = replace(ada, keyid=bob.keyid, spki_der=bob.public_spki_der, owner=ada.keyid[:16])
    keyring = Keyring(record.realm, 2, (ada, named))
    assert _named(keyring, ada.keyid[:16]) == (ada,)
    assert _named(keyring, "ada") == (ada,)


async def test_a_first_owner_has_a_name(cli: Cli) -> None:
    """The one of `init` is in the first keyring."""
    assert "[cli/bad-option]" in (await cli("init", "--no-passphrase", "--owner", "ada  (all keys)", code=2)).stderr
    await cli("init", "--no-passphrase", "--owner", "ada@example.org")


async def test_reasons_are_quoted_and_cut(installed: Cli) -> None:
    """A reason is a stranger's words, on one line, and no column of its own."""
    reason = "stolen   by   somebody " + "x" * 120
    await installed("lock", f"key/{'a' * 64}", "--reason", reason)
    listed = (await installed("locks")).stdout
    assert '"stolen \\u0020\\u0020by \\u0020\\u0020somebody ' in listed
    assert f"... ({len(reason)} characters)" in listed
    assert json.loads((await installed("locks", "-o", "json")).stdout)[0]["reason"] == reason
