"""Bases of the bodies of the admin API: camelCase, requests strict, responses open to more."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Request(BaseModel):
    """Base of what is sent to the hub: strict."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class Response(BaseModel):
    """Base of what the hub answers: may grow."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)
