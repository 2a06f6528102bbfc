"""``cellward isolation explain``: whether one may talk to another, why, and what would open it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from pydantic import Field

from cli import errors
from cli.context import command, local
from cli.isolation.ends import AddressEnd, CellEnd, Port, parse_end, parse_port
from cli.isolation.standing import Fleet, Standing, fleet, path_of
from cli.options import DEFAULT_HOME, ClusterOption, HomeOption, OutputOption
from cli.output import Format, put, say, short, show_data
from cli.views import Shown

if TYPE_CHECKING:
    from cellward.documents.names import CellKey
    from cellward.isolation.cells import Member
    from cellward.isolation.model import Pod, Side, Verdict, World

    End = CellEnd | AddressEnd

#: Judged where nobody named a port and nothing declares one.
_ANY_PORT = Port(443)
_WORDS: dict[Verdict, Literal["open", "closed", "undetermined"]] = {
    "allowed": "open", "denied": "closed", "undetermined": "undetermined",
}  # fmt: skip
Answered = Literal["open", "closed", "undetermined"]


class ExplainedSide(Shown):
    """What the policies of one end say; everything but ``end`` and ``verdict`` is empty for an address."""

    end: str
    verdict: Answered
    reason: str
    policies: list[str]
    rules: list[str]
    version: str = ""
    release: str = ""
    signers: list[str] = Field(default_factory=list)
    evidence: str = ""


class Answer(Shown):
    """One component to one port on one cluster; ``to_open`` are steps, empty where it is open."""

    cluster: str
    source: str
    destination: str
    port: int
    protocol: str
    verdict: Answered
    caller: ExplainedSide
    callee: ExplainedSide
    to_open: list[str]


class Explanation(Shown):
    """Open when on every cluster a component reaches a port that was asked about."""

    verdict: Answered
    answers: list[Answer]
    unverified: list[str]


@command
def explain(
    source: Annotated[str, typer.Argument(metavar="FROM", help="PROJECT/CELL[/ENVIRONMENT][:COMPONENT], or ADDRESS.")],
    destination: Annotated[str, typer.Argument(metavar="TO", help="The same, or ADDRESS:PORT or [IPV6]:PORT.")],
    port: Annotated[
        str, typer.Option(help="PORT or PORT/PROTOCOL on the receiver's pod; default: each it has.", show_default=False)
    ] = "",
    cluster: ClusterOption = None,
    home: HomeOption = DEFAULT_HOME,
    output: OutputOption = Format.table,
) -> None:
    """Say whether FROM may talk to TO, why, and what to add to whose file; ends with 0 when open, with 1 when not.

    Judged are the NetworkPolicies that agents render from signed releases, verified here. An address is taken to be
    outside the cluster.
    """
    ends = parse_end(source), parse_end(destination)
    asked = parse_port(port) if port else None
    place = local(home)
    found = fleet(place.client(), place.home, clusters=cluster or ())
    made = explained(found, *ends, asked)
    if output in {Format.json, Format.yaml}:
        show_data(made.model_dump(mode="json", by_alias=True), output)
    elif output is Format.name:
        put(f"edge/{made.verdict}")
    else:
        _show(made)
    for sentence in made.unverified:
        say(f"not verified: {sentence}")
    if made.verdict != "open":
        raise typer.Exit(1)


def explained(found: Fleet, source: End, destination: End, asked: Port | None) -> Explanation:
    """Judge it on every cluster; raises cli/bad-option where nothing that was asked about is there."""
    if isinstance(source, AddressEnd) and isinstance(destination, AddressEnd):
        raise errors.BAD_OPTION("no cell was named: nothing here decides between two addresses")
    answers = [answer for name in found.clusters() for answer in _on(found, name, source, destination, asked)]
    doubts = _about(found, source, destination)
    if not answers:
        for sentence in doubts:
            say(f"not verified: {sentence}")
        raise errors.BAD_OPTION(
            "no cluster runs what was asked about in one environment, as far as it could be verified",
            hint="`cellward cells list` shows cells, `cellward cells show PROJECT/CELL` their environments.",
        )
    return Explanation(verdict=_sum(answers), answers=answers, unverified=doubts)


def _sum(answers: list[Answer]) -> Answered:
    best: list[Answered] = []
    for cluster in {answer.cluster for answer in answers}:
        said = {answer.verdict for answer in answers if answer.cluster == cluster}
        best.append("open" if "open" in said else "undetermined" if "undetermined" in said else "closed")
    if set(best) == {"open"}:
        return "open"
    return "closed" if "closed" in best else "undetermined"


def _about(found: Fleet, *ends: End) -> list[str]:
    """Of what could not be verified, the sentences about cells that were asked about."""
    cells = {f"{end.project}/{end.cell}/" for end in ends if isinstance(end, CellEnd)}
    return [line for line in found.unverified if any(line.startswith(cell) for cell in cells)]


@dataclass(frozen=True, slots=True)
class _Place:
    """One end on one cluster: a pod of a cell, or an address."""

    standing: Standing | None
    member: Member | None
    pod: Pod | None
    ip: str

    def __str__(self) -> str:
        if self.member is None or self.pod is None:
            return self.ip
        return f"{path_of(self.member.key)}:{self.member.component_of(self.pod)}"


def _on(found: Fleet, cluster: str, source: End, destination: End, asked: Port | None) -> Iterator[Answer]:
    from cellward.isolation.cells import world_of

    members = found.members(cluster)
    world = world_of(list(members.values()))
    standing = {one.key: one for one in found.on(cluster)}
    for one in _places(source, members, standing):
        for other in _places(destination, members, standing):
            if not _comparable(one, other, source, destination):
                continue
            for port in _ports(one, other, destination, asked):
                yield _answer(world, cluster, one, other, port)


def _places(end: End, members: dict[CellKey, Member], standing: dict[CellKey, Standing]) -> list[_Place]:
    if isinstance(end, AddressEnd):
        return [_Place(None, None, None, end.ip)]
    found = [
        _Place(standing[key], member, pod, "")
        for key, member in members.items()
        if key[:2] == (end.project, end.cell) and end.environment in {"", key.environment}
        for pod in member.pods
    ]
    chosen = [one for one in found if end.component in {"", _component(one)}]
    if found and not chosen:
        parts = ", ".join(sorted({_component(one) for one in found}))
        raise errors.BAD_OPTION(f"{end.project}/{end.cell} has no pods of component {end.component!r}; it has {parts}")
    return chosen


def _component(place: _Place) -> str:
    return "" if place.member is None or place.pod is None else place.member.component_of(place.pod)


def _comparable(one: _Place, other: _Place, source: End, destination: End) -> bool:
    """Whether it was asked: who names no environment, or one, means both ends to be in it."""
    if one.member is None or other.member is None:
        return True
    named = [end.environment for end in (source, destination) if isinstance(end, CellEnd) and end.environment]
    return len(named) == 2 or one.member.key.environment == other.member.key.environment


def _ports(one: _Place, other: _Place, destination: End, asked: Port | None) -> list[Port]:
    if asked is not None:
        return [asked]
    if isinstance(destination, AddressEnd):
        if destination.port is not None:
            return [destination.port]
        outside = [] if one.member is None else [item.external for item in one.member.spec.connections if item.external]
        return sorted({Port(item.port, item.protocol) for to in outside for item in to.ports}, key=str) or [_ANY_PORT]
    pod = other.pod
    return [Port(item.port, item.protocol) for item in pod.ports] if pod is not None and pod.ports else [_ANY_PORT]


def _answer(world: World, cluster: str, one: _Place, other: _Place, port: Port) -> Answer:
    from cellward.isolation.cells import judged
    from cellward.isolation.model import Outside

    said = judged(world, one.pod or Outside(one.ip), other.pod or Outside(other.ip), port.number, port.protocol)
    return Answer(
        cluster=cluster, source=str(one), destination=str(other), port=port.number, protocol=port.protocol,
        verdict=_WORDS[said.verdict], caller=_side(one, said.egress), callee=_side(other, said.ingress),
        to_open=[] if said.verdict == "allowed" else list(_steps(one, other, port)),
    )  # fmt: skip


def _side(place: _Place, side: Side) -> ExplainedSide:
    member, reason = place.member, side.reason
    if member is not None and side.verdict == "denied":
        edges = "; ".join(
            f"{name} is closed: {why}" for name, why in sorted(member.shut.items()) if side.way == "egress"
        )
        reason = "the cell is in quarantine" if member.quarantined else f"{reason}{f' ({edges})' if edges else ''}"
    made = ExplainedSide(
        end=str(place), verdict=_WORDS[side.verdict], reason=reason, policies=list(side.selected_by),
        rules=[str(rule) for rule in side.allowed_by],
    )  # fmt: skip
    if place.standing is None:
        return made
    standing = place.standing
    return made.model_copy(
        update={
            "version": standing.release.version, "release": standing.digest, "signers": list(standing.signers),
            "evidence": standing.evidence,
        }
    )  # fmt: skip


def _steps(one: _Place, other: _Place, port: Port) -> tuple[str, ...]:
    from cli.isolation.opening import Part, to_open, to_open_from_outside, to_open_outside

    if one.member is None:
        return to_open_from_outside()
    caller = Part(one.member, _component(one))
    if other.member is None:
        return to_open_outside(caller, other.ip, port)
    return to_open(caller, Part(other.member, _component(other)), port)


def _show(made: Explanation) -> None:
    for answer in made.answers:
        port = f"{answer.port}/{answer.protocol}"
        put(f"{answer.cluster}: {answer.source} to {answer.destination} {port}: {answer.verdict}")
        for role, side in (("caller", answer.caller), ("callee", answer.callee)):
            put(f"  {role} {side.end}: {side.verdict}: {side.reason}")
            if side.release:
                signers = ", ".join(side.signers)
                put(f"    version {side.version} ({short(side.release)}), signed by {signers}, {side.evidence}")
        for step in answer.to_open:
            put(f"  to open it: {step}")
