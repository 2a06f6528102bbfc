"""What measured edges mean; pure.

Invariants:

- ``enforced`` only when edges were tried that must be closed, on which somebody is known to listen, both out of the
  cell and into it, and every edge that must be closed is.
- One edge open that must be closed is ``not-enforced``, whatever else was not measured.
- A pod that reached nothing, not even what it may, proves nothing: perhaps it could not send at all.
- Anything else is ``unknown``, and the text says what is missing.
- An edge that must be open and is not is said, and makes nothing enforced or not: isolation is about what is closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from agent.isolation.interfaces import Evidence, IsolationState, MeasuredEdge
from cellward.cells.labels import NAME

#: Name of this prober in evidence.
PROBER: Final = "pods"
#: Name label of the agent's pod, as the chart has it.
AGENT: Final = "cellward-agent"
#: Wrong edges that are named in the text.
_NAMED: Final = 3


def judge(
    edges: Sequence[MeasuredEdge],
    *,
    at: datetime,
    sure: Sequence[bool],
    lag_seconds: float | None,
    left_out: int = 0,
) -> Evidence:
    """Return the evidence of one probe.

    Args:
        edges: all that were tried.
        at: when, by the agent's clock.
        sure: for each edge, whether it is known that somebody listens.
        lag_seconds: how long a forbidden edge was open at first; None when that was not measured.
        left_out: how many edges, or kinds of callers, there were beyond the bounds.
    """
    open_wrongly = [one for one in edges if one.expected == "closed" and one.measured == "open"]
    closed_wrongly = [one for one in edges if one.expected == "open" and one.measured == "closed"]
    state: IsolationState = "unknown"
    if open_wrongly:
        state, text = "not-enforced", f"open, and must be closed: {_names(open_wrongly)}"
    elif missing := _missing(edges, sure):
        text = f"not proved: {missing}"
    else:
        state = "enforced"
        closed = [known for one, known in zip(edges, sure, strict=True) if one.expected == "closed"]
        text = (
            f"{len(closed)} edges that must be closed are closed, {sum(closed)} of them where somebody is known to "
            f"answer; {len(edges)} were tried"
        )
    if closed_wrongly:
        text += f"; closed, and must be open: {_names(closed_wrongly)}"
    if lag_seconds:
        text += f"; a new pod got through for {lag_seconds:.1f} s at first"
    if left_out:
        text += f"; {left_out} more were not tried"
    return Evidence(state, at, PROBER, text, tuple(sorted(edges)), lag_seconds)


def unmeasured(at: datetime, why: str) -> Evidence:
    """Return the evidence of a probe that could not be made."""
    return Evidence("unknown", at, PROBER, f"not measured: {why}")


def may_hold_back(policy: Mapping[str, Any]) -> bool:
    """Whether a NetworkPolicy of the agent's namespace may hold back what the agent sends; one for other pods does not.

    Where it is not plain that it is about others, or that it lets everything out, it may.
    """
    spec = policy.get("spec") or {}
    rules = spec.get("egress") or []
    if {} in rules or not ("Egress" in (spec.get("policyTypes") or ()) or rules):
        return False
    return bool((spec.get("podSelector") or {}).get("matchLabels", {}).get(NAME, AGENT) == AGENT)


def _missing(edges: Sequence[MeasuredEdge], sure: Sequence[bool]) -> str:
    """Say what a proof lacks; empty when it lacks nothing."""
    proofs = [one for one, known in zip(edges, sure, strict=True) if known and one.expected == "closed"]
    for direction, words in (("egress", "out of the cell"), ("ingress", "into the cell")):
        measured = [one for one in proofs if one.direction == direction and one.measured == "closed"]
        if not measured:
            return f"no packet was tried {words} to somebody who would have answered"
    if mute := _mute(edges):
        return f"pods for {', '.join(mute)} reached nothing, not even what they may"
    if blind := [one for one in edges if one.expected == "closed" and one.measured == "unknown"]:
        return f"not tried: {_names(blind)}"
    return ""


def _mute(edges: Sequence[MeasuredEdge]) -> list[str]:
    """Return the components whose pods reached nothing, where something must be open to them."""
    reached: dict[tuple[str, str], bool] = {}
    for one in edges:
        if one.direction == "egress" and one.expected == "open":
            caller = (one.component, one.node)
            reached[caller] = reached.get(caller, False) or one.measured == "open"
    return sorted({component for (component, _), passed in reached.items() if not passed})


def _names(edges: Sequence[MeasuredEdge]) -> str:
    # Named once, however many components and nodes it is wrong for.
    shown = list(
        dict.fromkeys(
            f"{'from' if one.direction == 'ingress' else 'to'} {one.peer} {one.protocol} {one.port}"
            for one in sorted(edges)
        )
    )
    return ", ".join(shown[:_NAMED]) + (f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else "")
