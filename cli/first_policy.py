"""Whether this machine may sign policy of a realm: what it remembers, and the very first publication.

A record holds together by its signatures, which says nothing of whether it is the newest; and before anything was
published no signature covers what is in it. So who signs has a memory of the realm, or is a person who is shown all of
it. Invariant: neither a hub that shows nothing nor a record that was restored makes a machine without memory sign.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from cli import errors
from cli.output import say, tell

if TYPE_CHECKING:
    from cellward.policy.publisher import Draft
    from cli.records import Base


def check_memory(base: Base, draft: Draft) -> None:
    """Refuse to sign where nothing here says that the record is the newest (policy/no-floors).

    Memory is a floor of policy that was published or accepted here, or that this machine itself wrote the record, as
    ``cellward init`` does. A refresh, which changes no policy, is also signed where the hub shows just what the record
    has: a schedule need not remember anything.
    """
    from tuf.api.metadata import Targets

    from cellward.policy.errors import NO_FLOORS
    from cli.state.policy import policy_floors, wrote

    state = base.place.home.state(base.trust).read()
    if policy_floors(state).get(Targets.type) is not None or wrote(state, base.record):
        return
    if not draft.fresh and _agree(base):
        return
    what = "no policy was published by it yet" if base.record.targets is None else "it may be an older one"
    raise NO_FLOORS(f"nothing here says that {base.path} is the newest record; {what}")


def check_first(base: Base, draft: Draft) -> None:
    """Show all that gets in force by the first publication of a realm, and ask.

    Raises policy/not-first where this machine, the record or the hub knows of a publication, cli/bad-option where
    nobody can be asked, and cli/not-signed for a no.
    """
    from cellward.policy.errors import NOT_FIRST

    if known := _published(base):
        raise NOT_FIRST(f"{known} has a publication of realm {base.record.realm}")
    say("the first publication of this realm puts in force:")
    tell(f"  {line}" for line in _lines(draft))
    if not sys.stdin.isatty():
        raise errors.BAD_OPTION(
            "--first-publication asks a person, and there is no terminal", hint="Run it in one and look at each line."
        )
    if not typer.confirm("Is this what you made, and is it the first?", err=True):
        raise errors.NOT_SIGNED("nothing was signed", hint="Take the policy-record.json that `cellward init` wrote.")


def _agree(base: Base) -> bool:
    from tuf.api.metadata import Targets

    from cellward.policy.model import KEYRING_ROLE

    if base.shown is None or base.record.targets is None:
        return False
    return all(base.shown.get(role) == base.record.base(role) for role in (Targets.type, KEYRING_ROLE))


def _published(base: Base) -> str:
    """Who knows of a publication already, or of a root that follows the first; empty for nobody."""
    from tuf.api.metadata import Root

    from cli.state.policy import policy_floors

    remembered = policy_floors(base.place.home.state(base.trust).read())
    for who, floors in (("this machine", remembered), ("the record", base.record.floors()), ("the hub", base.shown)):
        roles = {} if floors is None else dict(floors.roles)
        root = roles.pop(Root.type, None)
        if roles or (root is not None and root.version > 1):
            return who
    return ""


def _lines(draft: Draft) -> Iterator[str]:
    from cellward.policy.ceremony import Proposal
    from cellward.policy.model import BINDINGS_TARGET
    from cli import proposals

    proposal = Proposal(draft)
    yield from (f"role {name}: {keys}" for name, keys in sorted(proposals.role_lines(proposal).items()))
    yield from (f"author {proposals.author_line(entry)}" for entry in draft.record.keyring.entries)
    yield from proposals.revocation_lines(draft.record.revocations)
    yield from (f"bundle {line}" for line in proposals.bundle_lines(proposal))
    yield from (f"bindings: {line}" for line in proposals.binding_lines(draft.content.get(BINDINGS_TARGET)))
