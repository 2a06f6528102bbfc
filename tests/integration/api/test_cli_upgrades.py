"""``cellward clusters upgrade``: the order, the command of each, and what a script is told."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from cellward.api import schemas
from cellward.version import Release
from cli import upgrades
from tests.fakes.command_line import IMAGE, Cli, set_image

HUB_IMAGE = "registry.example/cellward/hub@sha256:" + "b" * 64
LINES = {"hub": "up hub", "agent": "up agent"}


def cluster(name: str, version: str, *, joined: bool = True) -> schemas.Cluster:
    """What a hub says of one."""
    said = {"name": name, "createdAt": "2026-01-01T00:00:00Z", "createdBy": "x", "joined": joined}
    return schemas.Cluster.model_validate({**said, "agentVersion": version})


@pytest.mark.parametrize(
    ("hub", "agent", "state", "linked"),
    [
        ("1.2.0", "1.2.0", ("up-to-date", "up-to-date"), True),
        ("1.2.0", "1.1.9", ("up-to-date", "upgrade"), True),
        ("1.2.0", "1.0.0", ("up-to-date", "upgrade"), False),
        ("1.1.0", "1.1.0", ("upgrade", "hub-first"), True),
        ("1.1.0", "1.2.0", ("upgrade", "up-to-date"), True),
        ("1.0.5", "1.2.0", ("upgrade", "up-to-date"), False),
        ("1.2.0", "1.3.0", ("up-to-date", "newer"), True),
        ("1.2.0", "", ("up-to-date", "unknown"), True),
        ("x", "1.1.0", ("unknown", "hub-first"), True),
    ],
)
def test_the_hub_comes_first_and_what_is_due_has_a_command(
    hub: str, agent: str, state: tuple[str, str], linked: bool
) -> None:
    """One minor version apart is linked; what is up to date or newer has nothing to be done."""
    first, second = upgrades.plan(hub, [cluster("eu-1", agent)], Release(1, 2, 0), LINES)
    assert (first.part, second.part, second.cluster) == ("hub", "agent", "eu-1")
    assert (first.state, second.state) == state
    assert second.linked is linked
    for step, line in ((first, "up hub"), (second, "up agent")):
        assert step.command == (line if step.state in upgrades.DUE else "")


def test_a_cluster_that_never_joined_has_nothing_to_upgrade() -> None:
    """It is invited: the line of its invitation brings the newest."""
    _, step = upgrades.plan("1.2.0", [cluster("eu-1", "", joined=False)], Release(1, 2, 0), LINES)
    assert (step.state, step.command) == ("not-joined", "")


async def test_each_line_keeps_values_and_names_the_image(installed: Cli) -> None:
    """Hub first, then every cluster by name; with --check a script hears of it by the exit code."""
    said = await installed(
        "clusters", "upgrade", "--to", "0.2.0", "--hub-image", HUB_IMAGE, "--check", "-o", "json", code=1
    )
    steps = json.loads(said.stdout)
    assert [(step["part"], step["cluster"], step["state"]) for step in steps] == [
        ("hub", "", "upgrade"), ("agent", "eu-1", "hub-first"), ("agent", "us-1", "hub-first"),
    ]  # fmt: skip
    for step, image, release, namespace in (
        (steps[0], HUB_IMAGE, "cellward-hub", "cellward-hub"),
        (steps[1], IMAGE, "cellward-agent", "cellward-system"),
    ):
        repository, _, digest = image.partition("@")
        assert shlex.split(step["command"]) == [
            "helm", "upgrade", release, str(Path("charts").absolute() / release), "--namespace", namespace,
            "--reset-then-reuse-values", "--set-literal", f"image.repository={repository}",
            "--set-literal", f"image.digest={digest}",
        ]  # fmt: skip
    assert "the hub's word" in said.stderr


async def test_one_cluster_is_up_to_date_and_another_is_not(installed: Cli) -> None:
    """The version of this command is wanted, unless the hub has a newer one; nobody is told to do what is done."""
    await installed.api.agent_joins("us-1", "prod", production=True, version="0.0.3")
    table = (await installed("clusters", "upgrade")).stdout
    assert "# in cluster us-1\nhelm upgrade cellward-agent " in table
    assert "# in cluster eu-1" not in table
    assert "# in the hub's cluster" not in table
    await installed("clusters", "upgrade", "eu-1", "--check", code=0)
    await installed("clusters", "upgrade", "us-1", "--check", code=1)
    await installed("clusters", "upgrade", "nowhere", code=1)


@pytest.mark.parametrize("words", [("--to", "latest"), ("--hub-image", "registry.example/hub:latest")])
async def test_what_is_no_version_or_no_digest_is_refused(installed: Cli, words: tuple[str, str]) -> None:
    """A tag is no image: what runs is what was reviewed."""
    assert "[cli/bad-option]" in (await installed("clusters", "upgrade", *words, code=2)).stderr


async def test_without_an_image_the_command_says_what_is_missing(installed: Cli) -> None:
    """A line that kept the old image would upgrade nothing."""
    set_image(installed, "")
    table = (await installed("clusters", "upgrade", "--to", "0.2.0")).stdout
    assert "helm upgrade" not in table
    assert "set image: REPOSITORY@sha256:DIGEST of the agent in trust.yaml" in table
    assert "give --hub-image" in table
