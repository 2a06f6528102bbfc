"""Reading cells from YAML text: bounded, without anchors, without duplicate keys, with the place of every error.

Scalars are text, whole numbers, true, false and null only: no ``yes`` that becomes true and no date that becomes a
moment, because neither survives signing.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from cellward.cells.errors import BAD_FIELD, DUPLICATE_KEY, NOT_YAML, TOO_LARGE, UNKNOWN_KIND, YAML_ALIAS
from cellward.cells.model import API_VERSION, Cell, Strict
from cellward.cells.placement import Placement
from cellward.cells.problems import describe
from cellward.documents.canonical import JSON
from cellward.documents.facts import Selector

MAX_BYTES = 1024 * 1024
MAX_DOCUMENTS = 64
MAX_DEPTH = 48
M = TypeVar("M", bound=Strict)

try:
    from yaml import CSafeLoader as _Base
except ImportError:  # a PyYAML without libyaml is slower, not different
    from yaml import SafeLoader as _Base  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class CellManifest:
    """One cell of a file; ``source`` and ``index`` say where it stands, for messages."""

    cell: Cell
    source: str
    index: int

    @property
    def key(self) -> tuple[str, str]:
        """(project, cell)."""
        return self.cell.key


@dataclass(frozen=True, slots=True)
class PlacementManifest:
    """One Deployment of a file: where which cells of a project go, and how."""

    project: str
    cells: tuple[str, ...]
    environments: tuple[str, ...]
    selector: Selector
    rollout: dict[str, int]
    confirm_prune: int
    source: str
    index: int


@dataclass(frozen=True, slots=True)
class Manifests:
    """What a file holds."""

    cells: tuple[CellManifest, ...]
    placements: tuple[PlacementManifest, ...]


class _Loader(_Base):
    """SafeLoader with fewer scalars, refusing duplicate keys."""


def load_manifests(text: str | bytes, source: str) -> Manifests:
    """Read every Cell and Deployment of a file; empty documents are skipped.

    Raises cells/too-large, cells/not-yaml, cells/yaml-alias, cells/duplicate-key, cells/unknown-kind, cells/bad-field,
    each naming ``source``, the document and the field.
    """
    cells: list[CellManifest] = []
    placements: list[PlacementManifest] = []
    for index, value in enumerate(_documents(text, source)):
        if value is None:
            continue
        where = f"{source}, document {index + 1}"
        if not isinstance(value, dict) or value.get("apiVersion") != API_VERSION:
            raise UNKNOWN_KIND(f"{where} is not of apiVersion {API_VERSION}")
        if value.get("kind") == "Cell":
            cells.append(CellManifest(_validate(Cell, value, where), source, index))
        elif value.get("kind") == "Deployment":
            placements.append(_placement(_validate(Placement, value, where), source, index))
        else:
            raise UNKNOWN_KIND(f"{where} has kind {str(value.get('kind'))[:80]!r}")
    return Manifests(tuple(cells), tuple(placements))


def load_cells(text: str | bytes, source: str) -> list[CellManifest]:
    """Read the cells of a file; Deployments in it are read, checked and left out."""
    return list(load_manifests(text, source).cells)


def _validate(model: type[M], value: dict[str, Any], where: str) -> M:
    try:
        found = model.model_validate(value)
    except ValidationError as error:
        problems = describe(error)
        raise BAD_FIELD(f"{where}: {problems.text}", source=where, field=problems.first) from error
    if isinstance(found, Cell):
        for position, connection in enumerate(found.spec.connections):
            if connection.resolved is not None:
                field = f"spec.connections.{position}.resolved"
                raise BAD_FIELD(f"{where}: {field}: is filled in when the release is signed", source=where, field=field)
    return found


def _placement(placement: Placement, source: str, index: int) -> PlacementManifest:
    spec = placement.spec
    selector: JSON = spec.cluster_selector.model_dump(mode="json", exclude_none=True)
    rollout: dict[str, int] = spec.rollout.model_dump(mode="json", exclude_none=True, by_alias=True)
    return PlacementManifest(
        project=placement.metadata.project,
        cells=tuple(spec.cells),
        environments=tuple(spec.environments),
        selector=Selector.from_json(selector),
        rollout=rollout,
        confirm_prune=spec.confirm_prune,
        source=source,
        index=index,
    )


def _documents(text: str | bytes, source: str) -> list[Any]:
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if len(data) > MAX_BYTES:
        raise TOO_LARGE(f"{source} has {len(data)} bytes, at most {MAX_BYTES} are allowed")
    try:
        decoded = data.decode("utf-8")
        _check_events(decoded, source)
        return list(yaml.load_all(decoded, Loader=_Loader))
    except UnicodeDecodeError as error:
        raise NOT_YAML(f"{source} is not UTF-8 at byte {error.start}") from error
    except _DuplicateKeyError as error:
        raise DUPLICATE_KEY(f"{source}{_place(error.problem_mark)}: key {error.key!r} appears twice") from error
    except yaml.MarkedYAMLError as error:
        raise NOT_YAML(f"{source}{_place(error.problem_mark)}: {error.problem or 'not YAML'}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise NOT_YAML(f"{source} cannot be read as YAML: {str(error)[:200]}") from error


def _check_events(text: str, source: str) -> None:
    """Bound depth and number of documents and refuse anchors and tags, before anything is built."""
    depth = documents = 0
    for event in _events(text):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise YAML_ALIAS(f"{source}{_place(event.start_mark)}: anchors and aliases are not taken")
        if getattr(event, "tag", None) is not None:
            raise NOT_YAML(f"{source}{_place(event.start_mark)}: tags are not taken")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > MAX_DEPTH:
            raise NOT_YAML(f"{source}{_place(event.start_mark)}: more than {MAX_DEPTH} levels")
        if documents > MAX_DOCUMENTS:
            raise TOO_LARGE(f"{source} has more than {MAX_DOCUMENTS} documents")


def _events(text: str) -> Iterator[yaml.Event]:
    return yaml.parse(text, Loader=_Loader)


def _place(mark: Any) -> str:
    return "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"


class _DuplicateKeyError(yaml.MarkedYAMLError):
    """A map names a key twice."""

    def __init__(self, key: Hashable, mark: Any) -> None:
        super().__init__(problem="duplicate key", problem_mark=mark)
        self.key = str(key)[:80]


def _construct_mapping(loader: Any, node: yaml.MappingNode) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(
                problem=f"the key {str(key)[:80]!r} is not text; quote it", problem_mark=key_node.start_mark
            )
        if key in result:
            raise _DuplicateKeyError(key, key_node.start_mark)
        result[key] = loader.construct_object(value_node, deep=True)
    return result


def _construct_sequence(loader: Any, node: yaml.SequenceNode) -> list[Any]:
    return [loader.construct_object(item, deep=True) for item in node.value]


def _unknown_tag(_loader: Any, node: yaml.Node) -> Any:
    raise yaml.constructor.ConstructorError(problem=f"tag {node.tag[:80]} is not taken", problem_mark=node.start_mark)


_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {}
_Loader.yaml_multi_constructors = {}
for _tag, _pattern, _first in (
    ("tag:yaml.org,2002:bool", r"(true|false)\Z", "tf"),
    ("tag:yaml.org,2002:int", r"(0|-?[1-9][0-9]{0,18})\Z", "-0123456789"),
    ("tag:yaml.org,2002:null", r"(null|~|)\Z", "n~"),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"\Z"), [""])
_Loader.add_constructor(None, _unknown_tag)
_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor("tag:yaml.org,2002:seq", _construct_sequence)
_Loader.add_constructor("tag:yaml.org,2002:str", lambda _, node: node.value)
_Loader.add_constructor("tag:yaml.org,2002:bool", lambda _, node: node.value == "true")
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:null", lambda _, __: None)
