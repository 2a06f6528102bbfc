"""A hub that lies to an author: judged by what a key signed, and by what the hub could deliver afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.lying_hub.hub import Answer, Asked, Lie, LyingHub
from tests.hostile.lying_hub.installation import Installation, run
from tests.hostile.lying_hub.lies import hide, renumber, silent, stale
from tests.hostile.lying_hub.signed import digest, kept

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("lying_hub")]
_AHEAD = 600_000


@pytest.fixture
def lying(installation: Installation) -> Iterator[Installation]:
    """The installation with a hub that answers as ``always`` says."""
    installation.hub.start_lying()
    yield installation
    installation.hub.stop_lying()


def only(path: str, lie: Lie, method: str = "GET") -> Lie:
    """Lie about one path, and tell the truth otherwise."""

    def told(hub: LyingHub, asked: Asked, answer: Answer) -> Answer:
        return lie(hub, asked, answer) if asked[0] == method and asked[1].startswith(path) else answer

    return told


def apply(lying: Installation, home: Path, file: str, *words: str) -> tuple[Any, list[dict[str, Any]]]:
    """Apply a file to dev; returns the result and the bodies that a key signed."""
    result, signed = run(home, "apply", "-f", lying.file(file), "-e", "dev", *words)
    return result, [json.loads(payload) for payload in signed]


def of_kind(bodies: Iterable[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Bodies of a kind."""
    return [body for body in bodies if body["kind"] == kind]


def numbers(home: Path) -> list[int]:
    """Numbers of the cell in local memory."""
    bodies = [json.loads(payload) for payload in kept(home).values()]
    return [body["sequence"] for body in bodies if body["cell"] == "cart" and "sequence" in body]


def releases(home: Path, version: str) -> set[str]:
    """Digests of the cell's releases of a version in local memory."""
    return {
        name
        for name, payload in kept(home).items()
        if json.loads(payload).get("version") == version and json.loads(payload)["cell"] == "cart"
    }


@pytest.mark.parametrize(
    "words",
    [
        ("delete", "shop/cart", "-e", "dev", "--delete-data", "--dry-run"),
        ("delete", "shop/cart", "-e", "dev", "--dry-run"),
        ("apply", "-f", "cart-0.yaml", "-e", "dev", "--dry-run"),
        ("apply", "-f", "cart-1.yaml", "-e", "dev", "--replace", "--dry-run"),
    ],
    ids=lambda words: " ".join(words[:1]) + words[-2],
)
@pytest.mark.parametrize("who", ["author", "runner"])
def test_v1_a_dry_run_leaves_the_hub_nothing_to_deliver(
    lying: Installation, tmp_path: Path, who: str, words: tuple[str, ...]
) -> None:
    """V1: no key is opened, let alone used, and what the hub was sent carries no signature it could keep for later."""
    home = lying.home(who, tmp_path)
    for key in (home / "keys").iterdir():
        key.unlink()
    result, signed = run(home, *(lying.file(word) if word.endswith(".yaml") else word for word in words))
    assert signed == []
    sent = [(asked, json.loads(body)) for asked, body in lying.hub.received if asked[0] == "POST"]
    assert [asked[1] for asked, _ in sent] == ["/v1/documents/trials"], result.stderr
    assert all(set(one) == {"payloadType", "payload"} for _, body in sent for one in body["payloads"])


@pytest.mark.parametrize(
    "lie", [stale(0), hide(0b1110), renumber(1), renumber(2**53 - 1)], ids=["old", "hidden", "low", "high"]
)
@pytest.mark.parametrize("who", ["author", "runner"])
def test_v1_what_a_hub_lists_chooses_neither_fallback_nor_order(
    lying: Installation, tmp_path: Path, who: str, lie: Lie
) -> None:
    """V1: newer Deployments hidden, or listed with other numbers: the agent's way back, a number by the clock."""
    lying.hub.always = only("/v1/documents", lie)
    home, memory = lying.home(who, tmp_path), numbers(lying.homes["author"])
    result, signed = apply(lying, home, "cart-1.yaml", "--replace")
    assert result.exit_code == 0, result.stderr
    assert "fallback previous" in result.stderr
    deployment = of_kind(signed, "deployment")[0]
    assert deployment["fallback"] == "previous"
    assert max(memory) < deployment["sequence"] <= time.time() * 1000 + _AHEAD
    old = releases(lying.homes["author"], "1.0")
    assert old
    assert not [text for text in old if text in json.dumps(signed)]


def test_v1_unchanged_is_said_from_memory_alone(lying: Installation, tmp_path: Path) -> None:
    """V1: a hub that shows the old Deployment of the very file applied does not keep the key from signing it anew."""
    lying.hub.always = only("/v1/documents", stale(0))
    home = lying.home("author", tmp_path)
    result, signed = apply(lying, home, "cart-0.yaml")
    assert "unchanged" not in result.stdout
    assert of_kind(signed, "deployment")[0]["sequence"] > max(numbers(lying.homes["author"]))
    runner = lying.home("runner", tmp_path)
    result, signed = apply(lying, runner, "cart-2.yaml")
    assert "unchanged" not in result.stdout
    assert [body["kind"] for body in signed] == ["release", "deployment"]


def test_unchanged_needs_the_whole_payload_and_the_hub_to_have_it(lying: Installation, tmp_path: Path) -> None:
    """The same file signs nothing; --replace is a difference; what the hub lost is handed over byte for byte."""
    home = lying.home("author", tmp_path)
    result, signed = apply(lying, home, "cart-2.yaml")
    assert "unchanged" in result.stdout
    assert signed == []
    lying.hub.always = only("/v1/documents/sha256", lambda *_: Answer(404, b'{"code": "fleet/unknown-document"}'))
    result, payloads = run(home, "apply", "-f", lying.file("cart-2.yaml"), "-e", "dev")
    assert "delivered-again" in result.stdout
    assert {digest(payload) for payload in payloads} <= set(kept(lying.homes["author"]))
    _, signed = apply(lying, home, "cart-2.yaml", "--replace")
    assert of_kind(signed, "release")[0]["replace"] is True


@pytest.mark.parametrize("words", [("apply",), ("delete",)])
def test_v1_a_failed_upload_never_has_two_documents_with_one_number(
    lying: Installation, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """V1: the hub took the document and said nothing: next time it is the same document, or a higher number."""
    home = lying.home("author", tmp_path)
    command = {
        "apply": ("apply", "-f", lying.file("cart-1.yaml"), "-e", "dev"),
        "delete": ("delete", "shop/cart", "-e", "dev"),
    }
    lying.hub.always = only("/v1/documents", silent, "POST")
    result, first = run(home, *command[words[0]])
    assert result.exit_code == 3
    assert first
    result, again = run(home, *command[words[0]])
    assert result.exit_code == 3
    assert again == first
    _, other = run(home, "apply", "-f", lying.file("cart-0.yaml"), "-e", "dev", "--replace")
    _, end = run(home, "delete", "shop/cart", "-e", "dev", "--delete-data")
    by_number: dict[int, set[str]] = {}
    for payload in (*first, *again, *other, *end):
        if "sequence" in json.loads(payload):
            by_number.setdefault(json.loads(payload)["sequence"], set()).add(digest(payload))
    assert len(by_number) == 3
    assert all(len(documents) == 1 for documents in by_number.values())


def test_v1_a_signature_exists_only_of_what_is_remembered(lying: Installation, tmp_path: Path) -> None:
    """V1: number and whole payload are on disk when the key signs; where they cannot be written, nothing is signed."""
    home = lying.home("author", tmp_path)
    result, signed = run(home, "apply", "-f", lying.file("cart-1.yaml"), "-e", "dev")
    assert result.exit_code == 0, result.stderr
    assert {digest(payload) for payload in signed} <= set(kept(home))
    blobs = home / "state" / "blobs"
    blobs.rename(home / "state" / "gone")
    blobs.write_text("not a directory")
    result, signed = run(home, "apply", "-f", lying.file("cart-0.yaml"), "-e", "dev")
    assert result.exit_code
    assert signed == []


def test_v2_a_peer_that_a_stolen_key_signed_is_forgotten(lying: Installation, tmp_path: Path) -> None:
    """V2: named once while its key was good, it is in memory; once the key is compromised nothing is composed of it."""
    home = lying.home("runner", tmp_path)
    named = releases(lying.homes["author"], "1.2").pop()
    result, signed = apply(lying, home, "front-1.yaml", "--peer", named)
    assert (result.exit_code, len(signed)) == (0, 2)
    state = json.loads((home / "state" / "state.json").read_text())
    signers = {keyid for one in state["documents"] if one["digest"] == named for keyid in one["signers"]}
    assert len(signers) == 1
    (home / "state" / "state.json").write_text(json.dumps({**state, "keys": dict.fromkeys(signers, "compromised")}))
    for words in ((), ("--peer", named)):
        result, signed = apply(lying, home, "front.yaml", *words)
        assert result.exit_code
        assert signed == []


def test_v1_a_peer_that_only_the_hub_shows_is_not_signed(lying: Installation, tmp_path: Path) -> None:
    """V1: it is printed with its date and signer; only a digest that a person names is used, and only that very one."""
    home = lying.home("runner", tmp_path)
    result, signed = apply(lying, home, "front-1.yaml")
    assert result.exit_code == 4
    assert "[cli/peer-not-named]" in result.stderr
    assert "signed by ada" in result.stderr
    assert signed == []
    named, other = releases(lying.homes["author"], "1.2").pop(), releases(lying.homes["author"], "1.0").pop()
    lying.hub.always = only(f"/v1/documents/{named}", lambda hub, *_: hub.truth(("GET", f"/v1/documents/{other}")))
    result, signed = apply(lying, home, "front-1.yaml", "--peer", named)
    assert result.exit_code
    assert signed == []
    lying.hub.always = None
    result, signed = apply(lying, home, "front-1.yaml", "--peer", named)
    assert result.exit_code == 0, result.stderr
    assert of_kind(signed, "release")[0]["spec"]["connections"][0]["resolved"]["podPort"] == 8082
