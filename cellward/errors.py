"""One tree of errors, each with a stable code, a public message and a hint.

A room defines its codes once, next to where they are raised::

    UNKNOWN_FIELD = define("document/unknown-field", InvalidInput, "The document has an unknown field.",
                           hint="Upgrade the agent, or sign the document with an older CLI.")
    raise UNKNOWN_FIELD(f"field {name!r} is not part of schema {schema}", field=name)

Invariants: a code is defined once in the whole program and matches ``room/kebab-case``; the class alone decides
how it maps to gRPC status, HTTP status and CLI exit code (one table each, here); what is public is ``title``,
``message``, ``hint`` and ``details``, never a chained exception's text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NoReturn

_CODE = re.compile(r"[a-z][a-z0-9-]*/[a-z0-9]+(-[a-z0-9]+)*\Z")


class CellwardError(Exception):
    """Base of every error Cellward raises on purpose.

    Attributes:
        code: stable identifier, ``room/kebab-case``.
        message: one sentence for a person, safe to show to anybody.
        hint: what to do next, one sentence, may be empty.
        details: further facts for machines; values are short strings.
    """

    #: HTTP status of RFC 9457 problems made from this class.
    http_status: ClassVar[int] = 500
    #: Name of the gRPC status code (``grpc.StatusCode``) this class maps to.
    grpc_status: ClassVar[str] = "INTERNAL"
    #: Exit code of the CLI: 0 ok, 1 check failed or difference, 2 usage, 3 unreachable, 4 denied.
    exit_code: ClassVar[int] = 1

    def __init__(self, code: str, title: str, message: str, hint: str, details: Mapping[str, str]) -> None:
        super().__init__(message)
        self.code = code
        self.title = title
        self.message = message
        self.hint = hint
        self.details = dict(details)

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"


class InvalidInput(CellwardError):
    """What was given is malformed; the same input will never work."""

    http_status, grpc_status, exit_code = 400, "INVALID_ARGUMENT", 2


class TooNew(CellwardError):
    """What was given is newer than this program understands; refused rather than half understood."""

    http_status, grpc_status, exit_code = 422, "FAILED_PRECONDITION", 4


class Unauthenticated(CellwardError):
    """Who asks is not proven."""

    http_status, grpc_status, exit_code = 401, "UNAUTHENTICATED", 4


class Denied(CellwardError):
    """Who asks is known and may not."""

    http_status, grpc_status, exit_code = 403, "PERMISSION_DENIED", 4


class Refused(CellwardError):
    """A signature, a policy or an invariant forbids it; the refusal is part of the record."""

    http_status, grpc_status, exit_code = 422, "FAILED_PRECONDITION", 4


class NotFound(CellwardError):
    """The thing named does not exist, or is not visible to who asks."""

    http_status, grpc_status, exit_code = 404, "NOT_FOUND", 1


class Conflict(CellwardError):
    """The state has moved; read again and decide again."""

    http_status, grpc_status, exit_code = 409, "ABORTED", 1


class Exhausted(CellwardError):
    """A bound was reached: size, rate, space."""

    http_status, grpc_status, exit_code = 429, "RESOURCE_EXHAUSTED", 3


class Unavailable(CellwardError):
    """A part that is needed does not answer; the same call may work later."""

    http_status, grpc_status, exit_code = 503, "UNAVAILABLE", 3


class Notice(CellwardError):
    """Nothing failed and nothing is raised: a condition says what holds instead of what was asked for."""

    http_status, grpc_status, exit_code = 200, "OK", 0


class Internal(CellwardError):
    """Our own mistake."""

    http_status, grpc_status, exit_code = 500, "INTERNAL", 1


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One entry of the catalogue; calling it makes the exception to raise."""

    code: str
    kind: type[CellwardError]
    title: str
    hint: str

    def __call__(self, message: str, /, *, hint: str | None = None, **details: object) -> CellwardError:
        """Make the exception: ``raise CODE("what happened", object=name)``."""
        texts = {key: str(value) for key, value in details.items()}
        return self.kind(self.code, self.title, message, self.hint if hint is None else hint, texts)

    def fail(self, message: str, /, *, hint: str | None = None, **details: object) -> NoReturn:
        """Raise it; for places where an expression is needed."""
        raise self(message, hint=hint, **details)


_catalogue: dict[str, ErrorCode] = {}


def define(code: str, kind: type[CellwardError], title: str, *, hint: str = "") -> ErrorCode:
    """Add a code to the catalogue; a second definition or a malformed code is a programming error."""
    if not _CODE.match(code):
        raise ValueError(f"malformed error code {code!r}")
    if code in _catalogue:
        raise ValueError(f"error code {code!r} is defined twice")
    entry = ErrorCode(code, kind, title, hint)
    _catalogue[code] = entry
    return entry


def catalogue() -> Mapping[str, ErrorCode]:
    """Every code defined so far, for the reference page and its drift check."""
    return dict(_catalogue)


def known(code: str) -> ErrorCode | None:
    """Return the catalogue entry of ``code``, or None; the other end may be newer than we are."""
    return _catalogue.get(code)
