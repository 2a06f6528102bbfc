"""Fields that several bodies of the admin API have: names, bytes and times, with what is checked of each."""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

TokenName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$")]
#: A name of a project or environment, or ``*`` for every one.
ScopeName = Annotated[str, StringConstraints(pattern=r"^([a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?|\*)$")]
#: A region, and key and value of a label, as facts have them.
FactText = Annotated[str, StringConstraints(max_length=253)]
FactKey = Annotated[str, StringConstraints(min_length=1, max_length=253)]
ClusterName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]


def _from_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("must be standard base64") from error


def _to_base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


#: Bytes in Python, standard base64 in JSON.
Blob = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    PlainSerializer(_to_base64, return_type=str),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]


def _in_utc(moment: datetime) -> datetime:
    """A time with a zone, in UTC: without one it cannot be compared with any other."""
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is no time in UTC") from error


#: A time of an answer.
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]
