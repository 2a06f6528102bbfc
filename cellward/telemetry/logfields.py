"""Names of log fields, once, and which of them may be printed.

A field that is not on the list is not printed: its value is replaced, so that a secret handed to a log call by mistake
does not leave the process. Values that are printed are cut to a bound.
"""

from __future__ import annotations

from typing import Final

CELL: Final = "cell"
CLUSTER: Final = "cluster"
CODE: Final = "code"
CONDITION: Final = "condition"
CORRELATION_ID: Final = "correlation_id"
DECISION: Final = "decision"
DIGEST: Final = "digest"
DURATION_MS: Final = "duration_ms"
ENVIRONMENT: Final = "environment"
ERROR: Final = "error"
HINT: Final = "hint"
NAMESPACE: Final = "namespace"
OBJECT: Final = "object"
PROJECT: Final = "project"
REASON: Final = "reason"
REVISION: Final = "revision"
RULE: Final = "rule"
STREAM: Final = "stream"
TASK: Final = "task"
VERSION: Final = "version"

#: What structlog itself adds.
STRUCTURAL: Final = frozenset({"event", "level", "logger", "timestamp", "exception", "exc_info", "stack_info"})

#: Every field that may be printed.
ALLOWED: Final = STRUCTURAL | frozenset(
    {
        CELL, CLUSTER, CODE, CONDITION, CORRELATION_ID, DECISION, DIGEST, DURATION_MS, ENVIRONMENT, ERROR, HINT,
        NAMESPACE, OBJECT, PROJECT, REASON, REVISION, RULE, STREAM, TASK, VERSION,
        "action", "actor", "address", "attempt", "binary", "bundle", "bytes", "count", "epoch", "file", "generation",
        "host", "id", "interval", "key", "keyid", "kind", "limit", "lost", "manager", "method", "mode", "name", "part",
        "path", "peer", "phase", "pid", "port", "records", "refused", "result", "role", "route", "rpc", "seconds",
        "seq", "serial", "size", "snapshot", "source", "state", "status", "streams", "subject", "targets", "topic",
        "uid", "violations",
    }
)  # fmt: skip

#: Longest printed value, characters.
MAX_VALUE: Final = 2000
#: What is printed in place of a field that is not allowed.
REDACTED: Final = "[redacted]"
