"""Error codes of the admin API itself."""

from __future__ import annotations

from cellward.errors import Conflict, Denied, Exhausted, Internal, InvalidInput, NotFound, Unauthenticated, define

NO_TOKEN = define(
    "api/no-token",
    Unauthenticated,
    "Not authenticated: the request carries no bearer token.",
    hint="Log in with `cellward login --server … --token-file …`.",
)
BAD_TOKEN = define(
    "api/bad-token",
    Unauthenticated,
    "Not authenticated: the bearer token is unknown or has expired.",
    hint="Log in again with a token of this hub.",
)
ROLE_TOO_LOW = define(
    "api/role-too-low",
    Denied,
    "Not authorized: the role of the token is too low.",
    hint="Ask for a token with the role named; roles are viewer, deployer, admin.",
)
OUTSIDE_SCOPE = define(
    "api/outside-scope",
    Denied,
    "Not authorized: the token does not cover the project or environment.",
    hint="Use a token whose projects and environments cover it; `cellward tokens list` shows them to admins.",
)
TOO_FAST = define(
    "api/too-fast",
    Exhausted,
    "Rate limit of this token exceeded.",
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
    "Timed out waiting for the body of the request.",
    hint="Send it again, over a faster connection or in smaller parts.",
)
BUSY = define(
    "api/busy",
    Exhausted,
    "The hub is busy: the limit of concurrent requests is reached.",
    hint="Try again in a moment.",
)
NO_SUCH_ROUTE = define(
    "api/no-such-route",
    NotFound,
    "No such path.",
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
    "The API still serves its old certificate, because the new one cannot be loaded.",
    hint="It is tried again; the hub's log has the cause. Restart the hub before the old one expires.",
)
INTERNAL = define(
    "api/internal",
    Internal,
    "Internal error of the hub; its log has the cause under the request id.",
    hint="Report it with the request id.",
)
UNKNOWN_COMMAND = define(
    "api/unknown-command",
    NotFound,
    "No command of this id was given to this cluster.",
    hint="Commands are forgotten a day after they expired; the audit log keeps who gave them (`cluster.command`).",
)
COMMAND_ID_TAKEN = define(
    "api/command-id-taken",
    Conflict,
    "Conflict: another command has this id.",
    hint="Choose a new id for each command, for example a UUID; the same id is only for sending the same one again.",
)
UNKNOWN_LOCK = define(
    "api/unknown-lock",
    NotFound,
    "This hub has no such lock.",
    hint="List them with `cellward locks`. A signed lock is lifted by whoever signs policy, not by a hub.",
)
