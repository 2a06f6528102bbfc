"""The one set-up of structured logging: JSON lines on standard error, redacted by allow-list."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

from cellward.telemetry.logfields import ALLOWED, MAX_VALUE, REDACTED

# What structlog loads where it finds it, as beside the CLI: 3 MB of colours for people, and lines are JSON here.
_UNWANTED = {name: None for name in ("rich", "greenlet") if name not in sys.modules}
sys.modules.update(_UNWANTED)  # type: ignore[arg-type]  # None tells Python that a module is not there
try:
    import structlog
finally:
    for _name in _UNWANTED:
        del sys.modules[_name]


def configure_logging(level: str = "info", *, stream: TextIO | None = None) -> None:
    """Set up structlog for the whole process; call it once, first thing in ``main``.

    Args:
        level: debug, info, warning or error.
        stream: where lines go; standard error by default, standard output is for data.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(sort_keys=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream if stream is not None else sys.stderr),
        cache_logger_on_first_use=False,
    )


def redact(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace the value of every field that is not allowed, and cut the others."""
    for name in tuple(event):
        event[name] = _printable(event[name]) if name in ALLOWED else REDACTED
    return event


def _printable(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    return text if len(text) <= MAX_VALUE else text[:MAX_VALUE] + "…"
