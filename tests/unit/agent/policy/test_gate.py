"""The gate: what is asked, and how an answer becomes a decision; whatever is missing denies."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.policy import gate
from cellward.documents.facts import Selector
from cellward.errors import CellwardError
from cellward.policy.bundle import Bundle
from cellward.policy.errors import ENGINE_UNAVAILABLE
from cellward.policy.model import Binding, Decision, Mode
from tests.fakes.policy import request, thing

REALM = "sha256:" + "a" * 64


def bound(name: str = "base", mode: Mode = "enforce") -> gate.BoundBundle:
    """Return a bound bundle without content."""
    bundle = Bundle(name, "1.0.0", (name,), f"{name}/deny", "sha256:" + "b" * 64, {})
    return gate.BoundBundle(Binding(name, bundle.target_path, bundle.digest, Selector(all=True), mode), bundle)


def rule(name: str = "r", **fields: object) -> dict[str, object]:
    """Return one element of a bundle's answer."""
    return {"rule": name, "reason": "because", **fields}


def decide(answer: object, *modes: Mode) -> Decision:
    """Decide about two objects with one bundle per mode, all giving the same answer."""
    entries = [bound(f"b{index}", mode) for index, mode in enumerate(modes or ("enforce",))]
    return gate.decide(
        request(REALM, thing("One"), thing("Two")), entries, {entry.binding.name: answer for entry in entries}
    )


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        [],
        "x",
        1,
        {"0": []},
        {"0": [], "1": None},
        {"0": [], "1": {}},
        {"0": [], "1": True},
        {"0": [], "2": []},
    ],
)
def test_what_is_missing_denies_v8(answer: object) -> None:
    """V8: no result for any object is a denial with its own rule, naming the bundle."""
    decision = decide(answer)
    assert not decision.allowed
    assert {found.rule for found in decision.violations} == {"policy/undefined"}
    assert "Two/shop--front--dev/x" in {found.object for found in decision.violations}
    assert "b0 1.0.0" in decision.violations[0].reason


@pytest.mark.parametrize("results", [None, {}, [], "x", {"other": {"0": [], "1": []}}])
def test_an_engine_without_results_denies(results: object) -> None:
    """An empty answer of the engine itself, OPA's way to say undefined, denies."""
    assert not gate.decide(request(REALM, thing("One")), [bound()], results).allowed


@pytest.mark.parametrize("element", [None, 1, True, [], {}, {"rule": "r"}, {"reason": "x"}, {"rule": 1, "reason": "x"}])
def test_malformed_elements_deny(element: object) -> None:
    """A denial in a form we do not know is still a denial."""
    decision = decide({"0": [element], "1": []})
    assert [found.rule for found in decision.violations] == ["policy/malformed-result"]


def test_plain_messages_are_denials() -> None:
    """Bundles written for other tools give plain texts."""
    decision = decide({"0": ["no"], "1": []})
    assert [(found.rule, found.reason) for found in decision.violations] == [("b0/deny", "no")]


def test_modes() -> None:
    """Only enforce denies; warn is told, shadow is kept apart."""
    answer = {"0": [rule()], "1": []}
    assert not decide(answer, "enforce").allowed
    warned = decide(answer, "warn")
    assert (warned.allowed, len(warned.warnings), len(warned.shadow)) == (True, 1, 0)
    shadowed = decide(answer, "shadow")
    assert (shadowed.allowed, len(shadowed.warnings), len(shadowed.shadow)) == (True, 0, 1)
    mixed = decide(answer, "shadow", "warn", "enforce")
    assert (mixed.allowed, len(mixed.violations), len(mixed.warnings), len(mixed.shadow)) == (False, 1, 1, 1)


def test_equal_denials_are_told_once() -> None:
    """A rule about the whole cell speaks for every object and is told once."""
    element = rule(object="Cell/shop/front")
    decision = decide({"0": [element], "1": [element]})
    assert len(decision.violations) == 1
    assert len(decide({"0": [rule()], "1": [rule()]}).violations) == 2


@pytest.mark.parametrize("name", ['x"]}; allow := true #', "x\\", 'a"\n]', "${x}", "\u2028"])
def test_the_module_cannot_be_broken_out_of(name: str) -> None:
    """Names are quoted, whatever the bundle's author chose: each is one string literal on one line."""

    def module(name: str) -> str:
        entry = bound()
        binding, bundle = replace(entry.binding, name=name), replace(entry.bundle, entrypoint=f"base/{name}")
        return gate.gate_module([gate.BoundBundle(binding, bundle)])

    literal = json.dumps(name)
    assert literal.isascii()
    assert "\n" not in literal
    assert module(name) == module("innocent").replace('"innocent"', literal)
    assert module(name).count(literal) == 3, "key of the rule, its binding, its entrypoint"


def test_each_mode_has_engines_of_its_own() -> None:
    """What warns or is watched is never asked together with what may refuse."""
    entries = [bound("a"), bound("b", "warn"), bound("c", "shadow"), bound("d")]
    enforced, advisory = gate.divide(entries)
    assert [entry.binding.name for entry in enforced] == ["a", "d"]
    assert [entry.binding.name for entry in advisory] == ["b", "c"]
    assert gate.divide([]) == ((),)
    assert gate.divide([bound("a", "shadow")])[0] == ()


def test_versions_of_one_bundle_are_apart() -> None:
    """One would silently replace the other's rules in one engine; two bindings of one version may share it."""

    def version(number: int, mode: Mode, name: str) -> gate.BoundBundle:
        entry = bound("base", mode)
        return gate.BoundBundle(
            replace(entry.binding, name=name),
            replace(entry.bundle, version=f"1.0.{number}", digest="sha256:" + f"{number}" * 64),
        )

    groups = gate.divide(
        [version(1, "enforce", "x"), version(1, "warn", "w"), version(2, "shadow", "y"), version(1, "shadow", "z")]
    )
    assert [[entry.binding.name for entry in group] for group in groups] == [["x"], ["w", "z"], ["y"]]
    with pytest.raises(CellwardError) as caught:
        gate.divide([version(number, "shadow", f"n{number}") for number in range(3)])
    assert caught.value.code == "policy/roots-overlap"


def test_what_was_not_evaluated_is_told_and_counts_by_its_mode() -> None:
    """A failure is a violation of the binding it was asked for, with the reason."""
    failed = {"a": ENGINE_UNAVAILABLE("it hangs")}
    for mode, allowed in (("enforce", False), ("warn", True), ("shadow", True)):
        decision = gate.decide(request(REALM, thing("One")), [bound("a", mode)], {}, failed)  # type: ignore[arg-type]
        told = {"enforce": decision.violations, "warn": decision.warnings, "shadow": decision.shadow}[mode]
        assert decision.allowed is allowed
        assert [one.rule for one in told] == ["policy/not-evaluated"]
        assert "it hangs [policy/engine-unavailable]" in told[0].reason


def test_a_bundle_sees_every_field_of_the_decision_document() -> None:
    """The gate builds the document anew; nothing of it may be forgotten, and nothing else be shown."""
    text = gate.gate_module([bound()])
    for field in {*request(REALM).to_json(), "object"}:
        assert f'"{field}": ' in text
    assert '"gate": ' not in text


def test_question_carries_the_binding_apart_from_claims() -> None:
    """Parameters come from the signed binding, beside the document."""
    document = gate.question(request(REALM, thing("One"), hub={"gate": "mine"}), [bound()])
    assert document["gate"] == {"base": {"name": "base", "mode": "enforce", "parameters": {}}}
