"""Error codes of the admin API itself."""

from __future__ import annotations

from cellward.errors import Conflict, Denied, Exhausted, Internal, InvalidInput, NotFound, Unauthenticated, define

NO_TOKEN = define(
    "api/no-token",
    Unauthenticated,
    "The request carries no bearer token.",
    hint="Log in with `cellward login --server … --token-file …`.",
)
BAD_TOKEN = define(
    "api/bad-token",
    Unauthenticated,
    "The bearer token is not known here, or has expired.",
    hint="Log in again with a token of this hub.",
)
ROLE_TOO_LOW = define(
    "api/role-too-low",
    Denied,
    "The role of this token does not allow that.",
    hint="Ask for a token with the role named; roles are viewer, deployer, admin.",
)
OUTSIDE_SCOPE = define(
    "api/outside-scope",
    Denied,
    "This token is not authorized for that project or environment.",
    hint="Use a token whose projects and environments cover it; `cellward tokens list` shows them to admins.",
)
TOO_FAST = define(
    "api/too-fast",
    Exhausted,
    "This token sends more than its rate allows.",
    hint="Wait a moment and send it again.",
)
RESERVED_NAME = define(
    "api/reserved-name",
    Conflict,
    "An API token of this name is made by the hub alone.",
    hint="Choose another name; to replace the first admin's token, put another one into admin_token_file and restart.",
)
UNKNOWN_API_TOKEN = define(
    "api/unknown-token-name",
    NotFound,
    "There is no API token of this name.",
    hint="`cellward tokens list` shows them.",
)
BAD_REQUEST = define(
    "api/bad-request",
    InvalidInput,
    "The request is malformed.",
    hint="Correct the fields named; /v1/openapi.json describes every request.",
)
TOO_LARGE = define(
    "api/too-large",
    InvalidInput,
    "The request is larger than the hub accepts.",
    hint="Send less at once.",
)
TOO_SLOW = define(
    "api/too-slow",
    InvalidInput,
    "The body of the request does not come in time.",
    hint="Send it again, over a faster connection or in smaller parts.",
)
BUSY = define(
    "api/busy",
    Exhausted,
    "The hub is answering as many requests as it may.",
    hint="Try again in a moment.",
)
NO_SUCH_ROUTE = define(
    "api/no-such-route",
    NotFound,
    "There is nothing at this path.",
    hint="/v1/openapi.json lists every path; a newer CLI may ask for what this hub does not have.",
)
METHOD_NOT_ALLOWED = define(
    "api/method-not-allowed",
    InvalidInput,
    "This path does not take that method.",
    hint="/v1/openapi.json lists every path and method.",
)
BAD_CURSOR = define(
    "api/bad-cursor",
    InvalidInput,
    "The cursor is not one this hub gave out.",
    hint="Start again without a cursor.",
)
NOT_SHOWN = define(
    "api/certificate-not-shown",
    Internal,
    "The API still shows its old certificate, because the new one cannot be loaded.",
    hint="It is tried again; the hub's log has the cause. Restart the hub before the old one expires.",
)
INTERNAL = define(
    "api/internal",
    Internal,
    "The hub made a mistake; it is in its log under the request id.",
    hint="Report it with the request id.",
)
UNKNOWN_LOCK = define(
    "api/unknown-lock",
    NotFound,
    "This hub has no such lock.",
    hint="List them with `cellward locks`. A signed lock is lifted by whoever signs policy, not by a hub.",
)
