"""Settings of a process: one YAML file, strict, with the environment on top; the same manners on both sides.

What belongs into the settings is each side's own; how a file is read, bounded and refused is here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

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
        values = yaml.load(path.read_bytes(), Loader=_UniqueKeyLoader)  # noqa: S506 - derived from SafeLoader
    except OSError as error:
        raise invalid(f"{path} cannot be read: {error.strerror}", file=path) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"{path} is not valid YAML: {_first_line(error)}", file=path) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise invalid(f"{path} must hold one mapping with string keys", file=path)
    return values


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice: the second would silently win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT002
        """Build a mapping, refusing duplicates."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} is given twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "(top)"


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
