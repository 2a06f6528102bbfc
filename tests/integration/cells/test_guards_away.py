"""Guards that were away come back (V12): whatever was done meanwhile, the cell becomes what was released again.

No pair of guard and repair may lock each other out. The damage of ``damage.py`` is done to one cell each while the
bindings of the chart's policies are gone and the agent is down; then both come back.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent.kube.client import KubeClient
from agent.kube.errors import KUBE_FORBIDDEN
from agent.kube.interfaces import JSONObject, ObjectRef, ref_of
from agent.link.messages import condition_to_wire
from agent.objects.fence import NAMES
from cellward.api import schemas
from cellward.checks.runner import table_lines
from cellward.errors import CellwardError
from cli.check import _cluster
from tests.fakes.cell_world import World, cell_yaml
from tests.integration.cells.damage import AT_ONCE, TAKE_BACK, UNGUARDED, Damage, Target
from tests.integration.cells.test_guarded_fields import Snapshot, snapshot
from tools.stack.api import ApiClient
from tools.stack.chart import install_chart, remove_guards
from tools.stack.steps import drive

pytestmark = pytest.mark.real

#: Its console block is what a person would see here.
GUIDE = Path("docs/how-to/mend-what-the-agent-cannot.md").absolute()
_numbers = itertools.count(1)
#: Seconds until a cell is itself again; a machine with much else to do takes its time.
_PATIENCE = 120.0
#: Every kind of write with which the agent brings the ground of a cell back; each must be seen to be admitted.
ACTIONS = {
    ("patch", "Namespace"),
    ("apply", "Namespace"),
    ("apply", "NetworkPolicy"),
    ("patch", "NetworkPolicy"),
    ("delete", "NetworkPolicy"),
    ("apply", "RoleBinding"),
    ("patch", "RoleBinding"),
    ("delete", "RoleBinding"),
    ("apply", "ServiceAccount"),
    ("patch", "ServiceAccount"),
    ("delete", "ServiceAccount"),
    ("apply", "Deployment"),
    ("patch", "Deployment"),
}


class Writes(KubeClient):
    """The agent's client, which keeps in mind what was admitted and what one of our own policies still refuses."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.admitted: set[tuple[str, str]] = set()
        #: What was refused and not admitted since.
        self.refused: dict[tuple[str, ObjectRef], str] = {}

    async def apply(self, obj: Mapping[str, Any], **options: Any) -> JSONObject:
        """Server-side apply."""
        return await self._noted("apply", ref_of(obj), lambda: super(Writes, self).apply(obj, **options))

    async def patch_json(self, ref: ObjectRef, operations: Sequence[Mapping[str, Any]], **options: Any) -> JSONObject:
        """JSON patch."""
        return await self._noted("patch", ref, lambda: super(Writes, self).patch_json(ref, operations, **options))

    async def delete(self, ref: ObjectRef, **options: Any) -> None:
        """DELETE."""
        await self._noted("delete", ref, lambda: super(Writes, self).delete(ref, **options))

    async def _noted(self, verb: str, ref: ObjectRef, call: Callable[[], Any]) -> Any:
        try:
            answer = await call()
        except CellwardError as error:
            if error.code == KUBE_FORBIDDEN.code and error.details.get("by") in NAMES:
                self.refused[verb, ref] = error.message
            raise
        self.admitted.add((verb, ref.kind))
        self.refused.pop((verb, ref), None)
        return answer


@pytest.fixture
async def writes(agent_kubeconfig: Path) -> AsyncIterator[Writes]:
    """Return the agent's client that keeps in mind what became of its writes."""
    client = await Writes.connect(agent_kubeconfig)
    assert isinstance(client, Writes)
    yield client
    await client.close()


@pytest.fixture
def guarded_again(admin: ApiClient) -> Iterator[None]:
    """Leave the guards as they were, whatever happens."""
    yield
    drive(install_chart(admin))


def _damage(admin: ApiClient, damages: Mapping[str, Sequence[Damage]]) -> None:
    drive(remove_guards(admin))
    for cell, done in damages.items():
        target = Target(admin, cell)
        for attempt in itertools.chain.from_iterable(damage.attempts for damage in done):
            answer = attempt(target)
            assert answer.ok, answer.text
        assert target.swap_image().ok
    drive(install_chart(admin))


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("guarded_again")
async def test_v12_every_repair_is_admitted_by_every_guard(writes: Writes, world: World, admin: ApiClient) -> None:
    """From everything that may have happened the agent comes back alone, and no write of it stays refused."""
    alone = [[one] for one in UNGUARDED if one.mended_by == "agent"]
    damages = {f"away{next(_numbers)}": done for done in (*AT_ONCE, *alone)}
    released: dict[str, Snapshot] = {}
    for cell in damages:
        assert (await world.deploy(cell_yaml(cell), cell)).accepted
        released[cell] = snapshot(Target(admin, cell))
    world.kube = writes
    await world.restart_without_anything(lambda: _damage(admin, damages))
    for cell in damages:
        target = Target(admin, cell)
        await world.until(lambda target=target, cell=cell: snapshot(target) == released[cell], seconds=_PATIENCE)
        await world.until(lambda cell=cell: not world.report(cell).conditions, seconds=_PATIENCE)
    assert writes.refused == {}
    assert writes.admitted >= ACTIONS


def _as_checked(world: World) -> str:
    """What ``cellward check`` prints of the agent's repairs, once the hub has passed the condition on."""
    (sent,) = [condition_to_wire(one) for one in world.health.get() if one.name == "repairs"]
    found = schemas.Component(
        category="clusters", name=sent.name, ok=sent.ok, code=sent.code, message=sent.message, hint=sent.hint
    )
    cluster = schemas.Cluster(
        name="eu-1", created_at=datetime.now(UTC), created_by="ada", joined=True, connected=True, conditions=[found]
    )
    lines = table_lines([one for one in _cluster(cluster) if one.id == "clusters/repairs"])
    return "\n".join(lines[2:])


def _plain(text: str) -> str:
    """Text without its lines; which of the agent's writes met the guard last, and how many others did, is chance."""
    found = re.sub(r"(content differs|not written yet); (patch|apply) ", "…; ", " ".join(text.split()))
    return re.sub(r" \(and \d+ more\)", "", found)


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("guarded_again")
async def test_v12_what_only_an_administrator_mends_is_said_with_the_command(
    world: World, admin: ApiClient, cell: str
) -> None:
    """The agent says so after its start, the command is admitted, and after it everything comes back."""
    (damage,) = [one for one in UNGUARDED if one.mended_by == "administrator"]
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    target = Target(admin, cell)
    released = snapshot(target)
    await world.restart_without_anything(lambda: _damage(admin, {cell: [damage]}))
    command = f"kubectl annotate namespace {target.place} {TAKE_BACK}={target.place} --overwrite"
    await world.until(lambda: any(command in one.message for one in world.report(cell).conditions), seconds=_PATIENCE)
    await world.until(
        lambda: any(one.name == "repairs" and command in one.message for one in world.health.get()), seconds=_PATIENCE
    )
    assert any(one["decision"] == "failed" and command in one["reason"] for one in await world.records())
    assert _plain(_as_checked(world).replace(f"--{cell}--", "--web--")) in _plain(GUIDE.read_text())
    assert target.annotate({TAKE_BACK: target.place}).ok
    await world.until(lambda: snapshot(target) == released and not world.report(cell).conditions, seconds=_PATIENCE)


def _red(world: World) -> str:
    return next((one.message for one in world.health.get() if one.name == "repairs" and not one.ok), "")


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("guarded_again")
async def test_v12_namespace_of_somebody_else_is_not_taken_over(world: World, admin: ApiClient, cell: str) -> None:
    """Made anew without our labels: what is in it is not the cell's; the agent says which command gives way."""
    assert (await world.deploy(cell_yaml(cell), cell)).accepted
    target = Target(admin, cell)
    released = snapshot(target)
    await world.restart_without_anything(lambda: _made_anew(target))
    command = f"kubectl delete namespace {target.place}"
    await world.until(lambda: any(command in one.message for one in world.report(cell).conditions), seconds=_PATIENCE)
    assert admin.get(target.deny).status == 404
    assert target.delete(target.namespace).ok
    await world.until(lambda: snapshot(target) == released and not world.report(cell).conditions, seconds=_PATIENCE)


def _made_anew(target: Target) -> None:
    assert target.delete(target.namespace).ok
    while target.admin.get(target.namespace).status != 404:
        time.sleep(0.05)
    assert target.create(target.namespace).ok
