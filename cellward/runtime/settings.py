"""Settings of a process: one YAML file, strict, with the environment on top; the same manners on both sides.

What belongs into the settings is each side's own; how a file is read, bounded and refused is here.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cellward.documents.strict_yaml import YamlError, strict_mapping
from cellward.errors import ErrorCode

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})\Z")
_MAX_FILE = 256 * 1024


class FileSettings(BaseModel):
    """Base of both sides' settings: values of the file, and the environment that beats them; nothing else.

    Attributes:
        ENVIRONMENT: what variables begin with; the name of a setting follows, ``NESTED`` standing for each dot.
        RETIRED: settings that earlier versions had and nothing reads any more: a file that has one is taken without it,
            or an upgrade would end the process that it is for.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ENVIRONMENT: ClassVar[str]
    NESTED: ClassVar[str] = "__"
    RETIRED: ClassVar[frozenset[str]] = frozenset()


T = TypeVar("T", bound=FileSettings)


def load_settings_file(path: Path, model: type[T], invalid: ErrorCode) -> T:
    """Read and check a settings file.

    Raises:
        CellwardError: ``invalid``, naming each field that is wrong.
    """
    values = {name: value for name, value in _read_yaml(path, invalid).items() if name not in model.RETIRED}
    for name, text in sorted(os.environ.items()):
        where = _setting_of(name, model)
        if where:
            _put(values, where, _value(text))
    try:
        return model(**values)
    except ValidationError as error:
        problems = "; ".join(f"{_place(item['loc'])}: {item['msg']}" for item in error.errors(include_url=False))
        raise invalid(f"{path}: {problems}", file=path) from error


def variable_of(name: str, model: type[FileSettings]) -> str:
    """Name of the variable that sets a field of ``model``."""
    return f"{model.ENVIRONMENT}{name}".upper()


def in_environment(name: str, model: type[FileSettings]) -> bool:
    """Whether the environment sets a field, or a part of it; large letters or small."""
    variable = variable_of(name, model)
    below = f"{variable}{model.NESTED}"
    return any(found.upper() == variable or found.upper().startswith(below) for found in os.environ)


def _setting_of(variable: str, model: type[FileSettings]) -> list[str]:
    """Where in the settings a variable belongs; nowhere when it names none of them."""
    if not variable.upper().startswith(model.ENVIRONMENT):
        return []
    where = variable[len(model.ENVIRONMENT) :].lower().split(model.NESTED)
    return where if where[0] in model.model_fields else []


def _put(values: dict[str, Any], where: list[str], value: object) -> None:
    """Set one value, keeping its neighbours."""
    *outer, last = where
    for name in outer:
        inner = values.get(name)
        values[name] = dict(inner) if isinstance(inner, dict) else {}
        values = values[name]
    values[last] = value


def _value(text: str) -> object:
    """Return what a variable says: lists and mappings in JSON, anything else as it stands."""
    if not text.startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError:  # an IPv6 address begins like a list
        return text


def check_address(value: str, *, least: int = 1) -> str:
    """Return a host:port, an IPv6 host in brackets; raises ValueError for anything else, or a port below ``least``."""
    match = _ADDRESS.match(value)
    if match is None or not least <= int(match.group(2)) < 65536:
        raise ValueError("must be host:port")
    return value


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of a host:port, an IPv6 host without its brackets; raises ValueError without a port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _read_yaml(path: Path, invalid: ErrorCode) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_FILE:
            raise invalid(f"{path} is larger than {_MAX_FILE} bytes", file=path)
        return strict_mapping(path.read_bytes())
    except OSError as error:
        raise invalid(f"{path} cannot be read: {error.strerror}", file=path) from error
    except YamlError as error:
        raise invalid(f"{path}{error.place}: {error.what}", file=path) from error


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "(top)"
