"""``config-hub.md`` and ``config-agent.md``, from the settings models."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.settings import TUNABLES, AgentSettings
from cellward.runtime.settings import FileSettings
from hub.settings import HubSettings
from tools.generate.page import Page, code, plain


@dataclass(frozen=True)
class _Setting:
    name: str
    type: str
    default: str
    meaning: str


def pages(out: Path) -> None:
    """Write both pages."""
    _page(out, "config-hub.md", "hub", HubSettings)
    _page(out, "config-agent.md", "agent", AgentSettings, TUNABLES)


def _page(out: Path, name: str, who: str, model: type[FileSettings], tunables: frozenset[str] = frozenset()) -> None:
    title, program, source = f"Settings of the {who}", f"cellward-{who}", f"{who}/settings.py"
    prefix, delimiter = model.ENVIRONMENT, model.NESTED
    schema = model.model_json_schema()
    groups = dict(_groups(schema))
    page = Page(title, source)
    page.text(
        f"One YAML file, given as `{program} run --config FILE`. It is read strictly: an unknown or repeated key is "
        "refused. The environment is stronger than the file: the variable of a setting is its name in capitals after "
        f"`{prefix}`, with `{delimiter}` for a dot."
    )
    if tunables:
        page.text(
            f"That is so for {', '.join(map(code, sorted(tunables)))} alone. A variable for any other setting is "
            "refused, also one that agrees with the file: whom the agent trusts is said in one place."
        )
    page.text("Paths are those of the machine it runs on. A setting without a default must be given.")
    for group, settings in groups.items():
        page.heading(code(group) if group else "Settings")
        if group:
            page.text(plain(_definition(schema, group)["description"]))
        page.table(
            ("setting", "type", "default", "meaning"),
            ((code(s.name), s.type, s.default, plain(s.meaning)) for s in settings),
        )
    nested = (s.name for settings in list(groups.values())[1:] for s in settings)
    example = next(name for name in nested if not tunables or name.partition(".")[0] in tunables)
    page.heading("Example of a variable")
    page.text(f"`{example}` is `{prefix}{example.upper().replace('.', delimiter)}`.")
    page.write(out, name)


def _groups(schema: Mapping[str, Any]) -> Iterator[tuple[str, list[_Setting]]]:
    """Yield the settings at the top, then each nested group under its name."""
    nested = {name: value["$ref"] for name, value in schema["properties"].items() if "$ref" in value}
    top = {name: value for name, value in schema["properties"].items() if name not in nested}
    yield "", [_setting(name, value, schema) for name, value in top.items()]
    for group in nested:
        definition = _definition(schema, group)
        yield group, [_setting(f"{group}.{name}", v, definition) for name, v in definition["properties"].items()]


def _definition(schema: Mapping[str, Any], group: str) -> dict[str, Any]:
    reference: str = schema["properties"][group]["$ref"]
    found: dict[str, Any] = schema["$defs"][reference.rpartition("/")[2]]
    return found


def _setting(name: str, value: Mapping[str, Any], owner: Mapping[str, Any]) -> _Setting:
    required = name.rpartition(".")[2] in owner.get("required", ())
    # A schema shows no default that is made again each time; ours are empty mappings.
    default = "" if required else _default(value.get("default", {}))
    return _Setting(name, _type(value), default, value["description"])


def _type(value: Mapping[str, Any]) -> str:
    """Name a JSON schema's type for a person, with its bounds."""
    if "anyOf" in value:
        return next(_type(option) for option in value["anyOf"] if option.get("type") != "null")
    if "enum" in value:
        return " or ".join(map(code, value["enum"]))
    if value["type"] == "array":
        return f"list of {_type(value['items'])}"
    if value["type"] == "object":
        return f"map of {_type(value['additionalProperties'])}"
    name = "path" if value.get("format") == "path" else {"string": "text"}.get(value["type"], value["type"])
    bounds = [
        f"{word} {value[key]:g}" if isinstance(value[key], float) else f"{word} {value[key]}"
        for key, word in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("maximum", "≤"))
        if key in value
    ]
    return f"{name} {', '.join(bounds)}".strip()


def _default(value: Any) -> str:
    return "none" if value is None else code(json.dumps(value))
