"""From an answer of the API server to an error of our tree; pure.

The traps, all measured: an unknown field under server-side apply is a 500 that must never be retried; a webhook that
does not answer is a 500 that must be; a webhook or policy that refuses is a 403; an admission policy without a reason
is a 422.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent.kube.errors import (
    KUBE_CONFLICT,
    KUBE_FORBIDDEN,
    KUBE_IMMUTABLE,
    KUBE_INVALID,
    KUBE_NOT_FOUND,
    KUBE_QUOTA,
    KUBE_STALE,
    KUBE_THROTTLED,
    KUBE_TOO_OLD,
    KUBE_UNAUTHENTICATED,
    KUBE_UNAVAILABLE,
    KUBE_UNEXPECTED,
)
from cellward.errors import CellwardError

_MANAGER = re.compile(r'conflicts? with "([^"]+)"')
_DENIED_BY = re.compile(r"(?:ValidatingAdmissionPolicy|admission webhook) ['\"]([^'\"]+)['\"]")
_QUOTA = re.compile(r"exceeded quota: ([^,\s]+)")
_IMMUTABLE = re.compile(
    r"immutable|may not change once set|updates to \S+ spec for fields other than"
    r"|may not be changed|cannot change roleRef"
)
_MAX_MESSAGE = 600


def error_of(status: int, body: Mapping[str, Any], what: str) -> CellwardError:
    """Return the error of a failed request; ``what`` is "apply Deployment/ns/name" and ends up in the message.

    Its details name as rule whatever refused: a policy, a webhook, the rights, a quota (V15).
    """
    error = _error_of(status, body, what)
    if "by" in error.details:
        error.details["rule"] = error.details["by"]
    return error


def _error_of(status: int, body: Mapping[str, Any], what: str) -> CellwardError:
    text = " ".join(str(body.get("message", "")).split())[:_MAX_MESSAGE]
    message = f"{what}: {text or f'HTTP {status}'}"
    details = body.get("details") or {}
    causes = [cause for cause in details.get("causes") or () if isinstance(cause, Mapping)]
    reason = str(body.get("reason", ""))
    simple = {404: KUBE_NOT_FOUND, 401: KUBE_UNAUTHENTICATED, 429: KUBE_THROTTLED}.get(status)
    if simple is not None:
        return simple(message)
    if status == 409:
        return _conflict(message, reason, causes)
    if status == 403:
        return _forbidden(message, text)
    if status in {400, 413, 415, 422}:
        if "sendInitialEvents" in f"{text} {causes}":
            return KUBE_TOO_OLD(message)
        return _invalid(message, text, causes)
    if "field not declared in schema" in text:
        return KUBE_INVALID(message)
    if status >= 500:
        return KUBE_UNAVAILABLE(message)
    return KUBE_UNEXPECTED(message, status=status)


def _conflict(message: str, reason: str, causes: list[Mapping[str, Any]]) -> CellwardError:
    owned = [cause for cause in causes if cause.get("reason") == "FieldManagerConflict"]
    if not owned:
        return KUBE_STALE(message, reason=reason)
    managers = sorted({name for cause in owned for name in _MANAGER.findall(str(cause.get("message", "")))})
    fields = [str(cause.get("field", "")) for cause in owned]
    return KUBE_CONFLICT(message, managers=", ".join(managers), fields=", ".join(fields))


def _forbidden(message: str, text: str) -> CellwardError:
    if "exceeded quota" in text:
        return KUBE_QUOTA(message, rule=_first(_QUOTA, text) or "quota")
    denied = _DENIED_BY.search(text)
    return KUBE_FORBIDDEN(message, by=denied.group(1) if denied else "rbac")


def _invalid(message: str, text: str, causes: list[Mapping[str, Any]]) -> CellwardError:
    denied = _DENIED_BY.search(text)
    if denied:
        return KUBE_FORBIDDEN(message, by=denied.group(1))
    fields = ", ".join(str(cause.get("field", "")) for cause in causes)
    said = " ".join([text, *(str(cause.get("message", "")) for cause in causes)])
    return (KUBE_IMMUTABLE if _IMMUTABLE.search(said) else KUBE_INVALID)(message, fields=fields)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found.group(1) if found else ""
