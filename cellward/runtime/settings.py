"""Settings of a process: one YAML file, strict, with the environment on top; the same manners on both sides.

What belongs into the settings is each side's own; how a file is read, bounded and refused is here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from cellward.documents.strict_yaml import YamlError, strict_mapping
from cellward.errors import ErrorCode

_ADDRESS = re.compile(r"(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})\Z")
_MAX_FILE = 256 * 1024


class FileSettings(BaseSettings):
    """Base of both sides' settings: values of the file, and the environment that beats them; nothing else."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - signature of the base
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - a stray .env file must not configure anything
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment beat the file."""
        return env_settings, init_settings


T = TypeVar("T", bound=FileSettings)


def load_settings_file(path: Path, model: type[T], invalid: ErrorCode) -> T:
    """Read and check a settings file.

    Raises:
        CellwardError: ``invalid``, naming each field that is wrong.
    """
    values = _read_yaml(path, invalid)
    try:
        return model(**values)
    except ValidationError as error:
        problems = "; ".join(f"{_place(item['loc'])}: {item['msg']}" for item in error.errors(include_url=False))
        raise invalid(f"{path}: {problems}", file=path) from error


def variable_of(name: str, model: type[FileSettings]) -> str:
    """Name of the variable that sets a field of ``model``."""
    return f"{model.model_config['env_prefix']}{name}".upper()


def in_environment(name: str, model: type[FileSettings]) -> bool:
    """Whether the environment sets a field, or a part of it; letters count alike, as pydantic reads them."""
    variable = variable_of(name, model)
    below = f"{variable}{model.model_config['env_nested_delimiter']}"
    return any(found.upper() == variable or found.upper().startswith(below) for found in os.environ)


def check_address(value: str, *, least: int = 1) -> str:
    """Return a host:port, an IPv6 host in brackets; raises ValueError for anything else, or a port below ``least``."""
    match = _ADDRESS.match(value)
    if match is None or not least <= int(match.group(2)) < 65536:
        raise ValueError("must be host:port")
    return value


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
