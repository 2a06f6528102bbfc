"""Whatever a hub answers, no key signs what it would not have signed for a truthful one.

The oracle, exactly. ``T`` is the set of payloads that keys sign when a command runs from a copy of a home against a
hub that tells the truth of one moment: before others have signed newer documents and policy, or after. ``M`` is what
this home holds before: whole payloads of its local memory, and what its proposals would have signed. The same command
is run from another copy of the same home against a hub that answers as Hypothesis likes: it holds what a hub holds, the
timestamp key included, and every answer it ever gave. For each payload ``p`` that a key signs then:

- ``p`` is in ``M``, byte for byte (a document is handed over again, a proposal is signed), or
- ``p`` equals one of ``T`` but for the clock (``signed.form``). Of a document these are ``sequence``, ``issuedAt`` and
  ``notAfter``; of policy ``version`` and ``expires``, and times of the entries of keyring and revocations that are new:
  what stays keeps its times, and what a snapshot names is compared in the same way.
- Each number is above every number of that cell, or version of that role, that memory and the publishers' record know,
  and at most ten minutes ahead of this machine's clock; a time of issue is at most that far ahead, and policy lives as
  long as it does by this machine's clock.

Nothing else may be signed, so a command that signs nothing for a truthful hub signs nothing new for any. A command that
succeeds signed together what it signs together for a truthful hub: ``unchanged`` is no hub's to say.

And what a run leaves behind: keys, token, ``trust.yaml``, join line, values and settings of an agent are as they were,
or as a truthful hub makes them, but for the address and authority of a hub in an invitation, which are a host with a
port and certificates and nothing else; floors, sequences and keys gone bad are no lower. Whatever it is told, a command
ends as every command may end: one of the exit codes, no traceback, no mistake of ours, and nothing that steers a
terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import typer
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from cli.commands import app
from tests.fakes.command_line import commands_of
from tests.hostile.lying_hub.commands import CHANGING, COMMANDS, UNTOLD, Line
from tests.hostile.lying_hub.hub import Lie
from tests.hostile.lying_hub.installation import Installation
from tests.hostile.lying_hub.lies import ALWAYS, LIES, mutate
from tests.hostile.lying_hub.oracle import Stage, staged
from tests.hostile.lying_hub.signed import digest

#: Examples of one run: few in `make test`, ten thousand in `make soak`.
EXAMPLES = int(os.environ.get("CELLWARD_SOAK_EXAMPLES", "100"))
pytestmark = pytest.mark.xdist_group("lying_hub")


@pytest.fixture(scope="module")
def stage(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The stage; its homes are the same at the end."""

    def contents() -> dict[str, str]:
        files = (file for home in installation.homes.values() for file in home.rglob("*") if file.is_file())
        return {str(file): digest(file.read_bytes()) for file in files}

    with staged(installation, tmp_path_factory.mktemp("stage")) as ready:
        before = contents()
        yield ready
        assert contents() == before


def test_every_command_is_among_the_lines() -> None:
    """A command that is added is told lies too, or it is said why not."""
    every = {name for name, _ in commands_of(typer.main.get_command(app))}
    told = {name for name in every for line in COMMANDS if line.words[: len(name.split())] == tuple(name.split())}
    assert every - told == set(UNTOLD)
    assert not told & set(UNTOLD)
    assert set(CHANGING) <= {" ".join(line.words) for line in COMMANDS}


@pytest.mark.timeout(7200)
# A lie holds a whole answer, and Hypothesis would warn that it is long to print.
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(
    at=st.integers(0, len(COMMANDS) - 1),
    present=st.integers(0, 3),
    lies=st.lists(LIES, max_size=10),
    always=ALWAYS,
)
def test_v1_no_key_signs_what_it_would_not_have_signed_for_a_truthful_hub(
    stage: Stage, at: int, present: int, lies: list[Lie], always: Lie | None
) -> None:
    """V1: as the docstring of this module says."""
    stage.check(COMMANDS[at], present, lies, always)


#: What an author goes on with.
THEN = tuple(
    line
    for line in COMMANDS
    if line.home == "author"
    and " ".join(line.words)
    in {"apply -f {cart_1} -e dev", "delete shop/cart -e dev", "policy refresh", "author add carol --key {carol}"}
)


@pytest.fixture
def before_others(stage: Stage) -> Iterator[Stage]:
    """The stage without the moment in which others had signed newer policy: that is to be remembered."""
    with stage.installation.hub.known_until(2):
        yield stage


@pytest.mark.timeout(7200)
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(
    max_examples=max(30, EXAMPLES // 4),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(
    at=st.sampled_from([at for at, line in enumerate(COMMANDS) if line.home == "author"]),
    then=st.integers(0, len(THEN) - 1),
    lies=st.lists(LIES, max_size=10),
    always=ALWAYS,
)
# A cluster without a name in an answer must not become an internal error of the request that is made from it.
@example(at=COMMANDS.index(Line("author", ("hold", "shop/cart"))), then=0, lies=[mutate(1129, "")], always=None)
def test_v16_what_a_hub_once_said_keeps_nobody_from_working(
    before_others: Stage, at: int, then: int, lies: list[Lie], always: Lie | None
) -> None:
    """V16: nothing of a hub that lied stays behind on this machine and makes it refuse an honest one."""
    before_others.check_afterwards(COMMANDS[at], THEN[then], lies, always)
