"""The table of routes: each row says path, method, role, request and response; requests are checked from it.

The OpenAPI document is built from the same rows (`hub.api.openapi`), so the two cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cellward.api.schemas import Role
from hub.api.auth import Principal
from hub.api.errors import BAD_REQUEST
from hub.api.interfaces import Services
from hub.api.rates import TokenRates
from hub.store.interfaces import Commit, Tables
from hub.store.log import AuditEvent

PREFIX = "/v1"
_JSON = "application/json"
#: Most wrong fields that are looked at one by one.
_TOLD = 100
T = TypeVar("T")
_M = TypeVar("_M", bound=BaseModel)
_PATH_PARAMETER = re.compile(r"\{([a-z_]+)\}")
_NAME = re.compile(r"[a-z0-9]([a-z0-9.:-]{0,126}[a-z0-9])?\Z")


class Query(BaseModel):
    """Base of query parameters: an unknown one is refused, not ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Page(Query):
    """Cursor paging."""

    cursor: str = Field(default="", max_length=256, description="nextCursor of the page before.")
    limit: int = Field(default=100, ge=1, le=500, description="Most items of the page.")


@dataclass(slots=True)
class Call:
    """One request, checked: who asks, for what, with which body."""

    request: web.Request
    services: Services
    principal: Principal
    request_id: str
    rates: TokenRates
    payload: BaseModel | None = None
    parameters: BaseModel | None = None
    #: What the audit record names; handlers of mutations set it as soon as they know.
    subject: str = ""
    reason: str = ""
    details: dict[str, str] = field(default_factory=dict)
    #: Name of what it asks for in the audit log; empty for a read.
    action: str = ""
    #: Whether what it asks for was done, with its record.
    committed: bool = False

    async def commit(
        self,
        job: Callable[[Tables], Awaitable[T]],
        describe: Callable[[T], Sequence[AuditEvent] | None] | None = None,
    ) -> T:
        """Do what the request asks for and record it, in one transaction (V13).

        ``describe`` completes subject and details from what came out, and may return events of what came with it.
        Raises what ``job`` raises; then nothing was done, and what was refused is recorded apart.
        """

        async def recorded(tables: Tables) -> T:
            result = await job(tables)
            more = describe(result) if describe is not None else None
            await tables.audit.put_events([*(more or ()), self.event("done", reason=self.reason)])
            return result

        result = await self.services.store.transact(recorded)
        self.committed = True
        return result

    def committing(self, describe: Callable[[T], Sequence[AuditEvent] | None]) -> Commit[T]:
        """Return ``commit`` with this ``describe``, for a room that runs the transaction itself."""

        async def commit(job: Callable[[Tables], Awaitable[T]], /) -> T:
            return await self.commit(job, describe)

        return commit

    def event(self, decision: str, *, code: str = "", reason: str = "") -> AuditEvent:
        """Return the record of this request."""
        return AuditEvent(
            self.principal.subject,
            self.action,
            self.subject,
            decision,
            cluster=self.details.get("cluster", ""),
            code=code,
            reason=reason[:500],
            correlation_id=self.request_id,
            details=dict(self.details),
        )

    def body(self, model: type[_M]) -> _M:
        """Return the parsed body, of the model the route declares."""
        assert isinstance(self.payload, model), "the route declares another request model"
        return self.payload

    def query(self, model: type[_M]) -> _M:
        """Return the parsed query, of the model the route declares."""
        assert isinstance(self.parameters, model), "the route declares another query model"
        return self.parameters

    def name(self, parameter: str) -> str:
        """Return a path parameter; raises api/bad-request for what cannot be a name here."""
        value = self.request.match_info[parameter]
        if not _NAME.match(value):
            raise BAD_REQUEST(f"{value[:80]!r} is not a name", parameter=parameter)
        return value


#: Who may call with a token for some projects only: ``whole`` nobody, because it concerns all of them; ``shared``
#: everybody, because it is nobody's in particular; ``own`` everybody, and the handler asks what it is about.
Reach = Literal["whole", "shared", "own"]
Answer = BaseModel | web.StreamResponse
Handler = Callable[[Call], Awaitable[Answer]]
_H = TypeVar("_H", bound=Handler)


@dataclass(frozen=True, slots=True)
class Route:
    """One row. ``role`` None means no authentication; ``action`` is set for what is audited, so for every mutation."""

    method: str
    path: str
    handler: Handler
    role: Role | None
    tag: str
    request: type[BaseModel] | None
    response: type[BaseModel] | None
    query: type[Query] | None
    status: int
    action: str
    media_type: str
    reach: Reach = "whole"
    #: Whether its body may be as large as bodies may be at all.
    large: bool = False

    @property
    def operation_id(self) -> str:
        """Name of the operation: that of the handler, in camelCase."""
        first, *rest = self.handler.__name__.split("_")
        return first + "".join(word.capitalize() for word in rest)

    @property
    def path_parameters(self) -> tuple[str, ...]:
        """Names in braces."""
        return tuple(_PATH_PARAMETER.findall(self.path))


class RouteTable:
    """Rows in order of declaration; one table per resource, joined by the application."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._rows: list[Route] = []

    def __iter__(self) -> Iterator[Route]:
        return iter(self._rows)

    def get(
        self,
        path: str,
        *,
        role: Role | None,
        response: type[BaseModel] | None,
        query: type[Query] | None = None,
        media_type: str = "application/json",
        reach: Reach = "whole",
    ) -> Callable[[_H], _H]:
        """Declare a handler that only reads."""

        def declare(handler: _H) -> _H:
            row = Route("GET", path, handler, role, self._tag, None, response, query, 200, "", media_type, reach)
            self._rows.append(row)
            return handler

        return declare

    def post(
        self,
        path: str,
        *,
        role: Role,
        request: type[BaseModel],
        response: type[BaseModel],
        action: str,
        status: int = 200,
        reach: Reach = "whole",
        large: bool = False,
    ) -> Callable[[_H], _H]:
        """Declare a handler that changes something; it is audited under ``action``."""

        def declare(handler: _H) -> _H:
            row = Route(
                "POST", path, handler, role, self._tag, request, response, None, status, action, _JSON, reach, large
            )
            self._rows.append(row)
            return handler

        return declare

    def delete(self, path: str, *, role: Role, response: type[BaseModel], action: str) -> Callable[[_H], _H]:
        """Declare a handler that takes something away; it is audited under ``action``."""

        def declare(handler: _H) -> _H:
            row = Route("DELETE", path, handler, role, self._tag, None, response, None, 200, action, _JSON)
            self._rows.append(row)
            return handler

        return declare


def read_query(request: web.Request, model: type[Query] | None) -> BaseModel | None:
    """Check the query; raises api/bad-request naming each parameter."""
    if model is None:
        return None
    if len(set(request.query)) != len(request.query):
        raise BAD_REQUEST("a query parameter is given twice")
    try:
        return model.model_validate(dict(request.query))
    except ValidationError as error:
        raise BAD_REQUEST(explain(error)) from error


def explain(error: ValidationError) -> str:
    """Name each field that is wrong; of many only their number."""
    if error.error_count() > _TOLD:
        return f"{error.error_count()} fields are wrong"
    problems = [
        f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}"
        for item in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    rest = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
    return "; ".join(problems[:8])[:2000] + rest
