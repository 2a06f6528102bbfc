"""An Evaluator without an engine: denies objects by kind, and can be told to have no set or no engine."""

from __future__ import annotations

from collections.abc import Mapping

from agent.policy import gate
from cellward.documents.facts import Selector
from cellward.policy.bundle import Bundle
from cellward.policy.errors import ENGINE_UNAVAILABLE, FOREIGN_REALM, NO_VERIFIED_SET
from cellward.policy.model import Binding, Decision, DecisionInput


class FakeEvaluator:
    """Satisfies ``cellward.policy.model.Evaluator`` (held to it by tests/contract/test_evaluator.py).

    Attributes:
        denied: rule id and reason by kind of object that is refused.
        asked: every request so far.
        has_set, available: set to False to have no verified set, or no engine.
    """

    def __init__(self, denied: Mapping[str, tuple[str, str]] | None = None, *, realm: str | None = None) -> None:
        self.denied = dict(denied or {})
        self.realm = realm
        self.asked: list[DecisionInput] = []
        self.has_set = True
        self.available = True
        bundle = Bundle("fake", "1.0.0", ("fake",), "fake/deny", "sha256:" + "f" * 64, {})
        self._bound = (
            gate.BoundBundle(Binding("fake", bundle.target_path, bundle.digest, Selector(all=True)), bundle),
        )

    async def decide(self, request: DecisionInput) -> Decision:
        """Decide by kind alone."""
        self.asked.append(request)
        if not self.has_set:
            raise NO_VERIFIED_SET("no policy set was ever verified on this cluster")
        if self.realm is not None and request.realm != self.realm:
            raise FOREIGN_REALM(f"the request belongs to realm {request.realm}")
        refusal = gate.refusal_without_bindings(request)
        if refusal is not None:
            return refusal
        if not self.available:
            raise ENGINE_UNAVAILABLE("the engine is not running")
        answers: dict[str, list[dict[str, str]]] = {}
        for index, item in enumerate(request.objects or ({},)):
            rule = self.denied.get(str(item.get("kind")))
            found = [{"rule": rule[0], "reason": rule[1], "remediation": "leave it out"}] if rule else []
            answers[str(index)] = found
        return gate.decide(request, self._bound, {"fake": answers})
