"""Bearer tokens: roles viewer < deployer < admin, and the projects and environments a token is for."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from aiohttp import web

from cellward.api.schemas import Role
from hub.api.errors import BAD_TOKEN, NO_TOKEN, OUTSIDE_SCOPE, ROLE_TOO_LOW

if TYPE_CHECKING:
    from datetime import datetime

    from hub.store.tokens import ApiTokenStore

#: Roles from weak to strong.
ROLES: tuple[Role, ...] = get_args(Role)
#: Makes a token recognisable to scanners of leaked secrets.
TOKEN_PREFIX = "cwapi_"  # noqa: S105 - a prefix, not a secret
MAX_TOKEN = 256


#: Stands for every project or environment.
EVERY = ("*",)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks, and for which projects and environments; ``("*",)`` is every one."""

    subject: str
    role: Role
    projects: tuple[str, ...] = EVERY
    environments: tuple[str, ...] = EVERY

    @property
    def bound(self) -> bool:
        """Whether the token is for some projects or environments only."""
        return "*" not in self.projects or "*" not in self.environments

    def covers(self, project: str, environments: Iterable[str] = ()) -> bool:
        """Whether the token is for this project and for each of these environments."""
        if "*" not in self.projects and project not in self.projects:
            return False
        return "*" in self.environments or set(environments) <= set(self.environments)


#: The first admin, whose token is in a file of the hub's.
BOOTSTRAP = "bootstrap-admin"
#: Who is recorded where nobody had to prove anything.
ANONYMOUS = Principal("anonymous", "viewer")


def new_token() -> str:
    """Make a token with 256 bits of randomness."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def hash_token(token: str) -> str:
    """Return what is kept of a token. It is random and long, so one SHA-256 is enough; a password would need more."""
    return hashlib.sha256(token.encode()).hexdigest()


async def authenticate(request: web.Request, tokens: ApiTokenStore, now: datetime) -> Principal:
    """Return who asks.

    Looked up by hash, and the hash compared in constant time: how long it takes says nothing about a token.

    Raises:
        CellwardError: ``api/no-token``, ``api/bad-token``.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise NO_TOKEN("the request carries no bearer token")
    if len(token) > MAX_TOKEN or not token.isascii():
        raise BAD_TOKEN("the bearer token is malformed")
    digest = hash_token(token)
    found = await tokens.get(digest)
    known = hmac.compare_digest(digest, found.token_hash if found is not None else "0" * 64)
    if found is None or not known:
        raise BAD_TOKEN("the bearer token is not known to this hub")
    if found.expires_at is not None and found.expires_at <= now:
        raise BAD_TOKEN(f"the bearer token of {found.subject} has expired")
    for role in ROLES:
        if role == found.role:
            return Principal(found.subject, role, found.projects, found.environments)
    raise BAD_TOKEN(f"the bearer token of {found.subject} has a role this hub does not know")


def require(principal: Principal, role: Role) -> None:
    """Raise api/role-too-low unless the principal's role is at least ``role``."""
    if ROLES.index(principal.role) < ROLES.index(role):
        raise ROLE_TOO_LOW(f"{principal.subject} is {principal.role}; this needs {role}", needs=role)


def require_unbound(principal: Principal) -> None:
    """Raise api/outside-scope unless the token is for every project and environment."""
    if principal.bound:
        raise OUTSIDE_SCOPE(f"{_reach(principal)}; this concerns all of them")


def require_scope(principal: Principal, project: str, environments: Iterable[str] = ()) -> None:
    """Raise api/outside-scope unless the token is for the project and each of the environments."""
    wanted = tuple(environments)
    if not principal.covers(project, wanted):
        where = f" in {', '.join(wanted)}" if wanted else ""
        raise OUTSIDE_SCOPE(f"{_reach(principal)}; this is about {project or 'every project'}{where}")


def _reach(principal: Principal) -> str:
    projects, environments = ", ".join(principal.projects), ", ".join(principal.environments)
    return f"the token of {principal.subject} is for projects {projects} in environments {environments}"
