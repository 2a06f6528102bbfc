"""Whatever a hub answers, no key signs what it would not have signed for a truthful one.

The oracle, exactly. ``T`` is the set of payloads that keys sign when a command runs from a copy of a home against the
hub as it is, before and after others have signed newer documents; ``M`` what this home's local memory holds
before. The same command is run from another copy of the same home against a hub that answers as Hypothesis likes. For
each payload ``p`` that a key signs then:

- ``p`` is in ``M``, byte for byte (a document is handed over again), or
- ``p`` is a Release, Deployment or tombstone that equals one of ``T`` but for the clock (``signed.but_for_the_clock``),
  its number is above every number of that cell in ``M`` and at most ten minutes ahead of this machine's clock, and its
  time of issue is at most that far ahead.

Nothing else may be signed, so a command that signs nothing for a truthful hub signs nothing new for any. And whatever
it is told, a command ends as every command may end: one of the exit codes, no traceback, no mistake of ours.
"""

from __future__ import annotations

import json
import os
import time
from datetime import datetime

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from typer.testing import Result

from tests.hostile.lying_hub.hub import Lie
from tests.hostile.lying_hub.installation import Installation, run
from tests.hostile.lying_hub.lies import LIES
from tests.hostile.lying_hub.signed import but_for_the_clock, digest, kept

#: Examples of one run: few in `make test`, ten thousand in `make soak`.
EXAMPLES = int(os.environ.get("CELLWARD_SOAK_EXAMPLES", "60"))
_AHEAD = 600_000

#: Home and command; what they sign for a truthful hub is found by running them.
COMMANDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("author", ("apply", "-f", "cart-2.yaml", "-e", "dev")),
    ("author", ("apply", "-f", "cart-1.yaml", "-e", "dev")),
    ("author", ("apply", "-f", "cart-2.yaml", "-e", "dev", "--replace", "--fallback", "none")),
    ("author", ("apply", "-f", "front-1.yaml", "-e", "dev")),
    ("author", ("apply", "-f", "cart-1.yaml", "-e", "dev", "--dry-run")),
    ("author", ("delete", "shop/cart", "-e", "dev")),
    ("author", ("delete", "shop/cart", "-e", "dev", "--delete-data", "--dry-run")),
    ("runner", ("apply", "-f", "cart-2.yaml", "-e", "dev")),
    ("runner", ("apply", "-f", "front-1.yaml", "-e", "dev")),
    ("runner", ("delete", "shop/cart", "-e", "dev")),
    ("author", ("status",)),
    ("author", ("check",)),
    ("author", ("cells", "list")),
    ("author", ("cells", "show", "shop/cart")),
    ("author", ("clusters", "list")),
    ("author", ("tokens", "list")),
    ("author", ("policy", "list")),
    ("author", ("policy", "refresh", "--dry-run")),
    ("author", ("audit", "tail")),
)


@pytest.fixture(scope="module")
def truthful(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> dict[int, set[str]]:
    """What each command signs for the hub as it is, but for the clock; its answers are what lies are made of."""
    found: dict[int, set[str]] = {at: set() for at in range(len(COMMANDS))}
    # Twice: in the second round the hub truly has what others signed since this home last looked, and a command that
    # had nothing to sign before signs the same content anew.
    for at, (name, words) in [*enumerate(COMMANDS), *enumerate(COMMANDS)]:
        home = installation.home(name, tmp_path_factory.mktemp("truth"))
        before = kept(home)
        result, signed = run(home, *_words(installation, words))
        assert result.exit_code in {0, 1, 4}, (words, result.stderr)
        known = {**before, **kept(home), **{digest(payload): payload for payload in signed}}
        found[at] |= {but_for_the_clock(payload, known) for payload in signed}
    installation.hub.record()
    return found


@pytest.mark.timeout(7200)
@pytest.mark.xdist_group("lying_hub")
# A lie holds a whole answer, and Hypothesis would warn that it is long to print.
@pytest.mark.filterwarnings("ignore:Generating overly large repr")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(at=st.integers(0, len(COMMANDS) - 1), lies=st.lists(LIES, max_size=10))
def test_v1_no_key_signs_what_it_would_not_have_signed_for_a_truthful_hub(
    installation: Installation,
    truthful: dict[int, set[str]],
    tmp_path_factory: pytest.TempPathFactory,
    at: int,
    lies: list[Lie],
) -> None:
    """V1: as the docstring of this module says."""
    name, words = COMMANDS[at]
    home = installation.home(name, installation.files.parent / "used")
    memory = kept(home)
    began = time.time() * 1000
    installation.hub.start_lying(lies)
    try:
        result, signed = run(home, *_words(installation, words))
    finally:
        installation.hub.stop_lying()
    _ended(result)
    known = {**memory, **{digest(payload): payload for payload in signed}}
    for payload in signed:
        if digest(payload) in memory:
            continue
        assert but_for_the_clock(payload, known) in truthful[at], (words, payload)
        _check_clock(json.loads(payload), memory, began)


def _words(installation: Installation, words: tuple[str, ...]) -> list[str]:
    return [installation.file(word) if word.endswith(".yaml") else word for word in words]


def _check_clock(body: dict[str, object], memory: dict[str, bytes], began: float) -> None:
    issued = datetime.fromisoformat(str(body["issuedAt"])).timestamp() * 1000
    assert began - 1000 <= issued <= time.time() * 1000 + _AHEAD
    if "sequence" not in body:
        return
    number = body["sequence"]
    assert isinstance(number, int)
    used = [
        one["sequence"]
        for one in map(json.loads, memory.values())
        if (one["project"], one["cell"]) == (body["project"], body["cell"]) and "sequence" in one
    ]
    assert max(used, default=0) < number <= time.time() * 1000 + _AHEAD


def _ended(result: Result) -> None:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in {0, 1, 2, 3, 4}
    assert "Traceback" not in result.output
    assert "cli/internal" not in result.output, result.output
