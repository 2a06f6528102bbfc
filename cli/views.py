"""The base of what commands print of their own."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class Shown(BaseModel):
    """In JSON and YAML named as the API names things."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True)
