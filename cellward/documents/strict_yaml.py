"""Strict YAML for files that people write: cells, settings, trust.yaml, bindings. One text has one meaning.

No anchors, no tags, no key twice; every key is text. Scalars are text, whole numbers, true, false and null only: no
``yes`` that becomes true, no date that becomes a moment and no number with a fraction (it stays text), because none of
these survives signing. Bounded in bytes, depth and documents before anything is built.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, Literal

import yaml

try:
    from yaml import CSafeLoader as _Base
except ImportError:  # a PyYAML without libyaml is slower, not different
    from yaml import SafeLoader as _Base  # type: ignore[assignment]

MAX_BYTES = 1024 * 1024
MAX_DOCUMENTS = 64
MAX_DEPTH = 48

Problem = Literal["too-large", "alias", "duplicate-key", "not-yaml"]


class YamlError(ValueError):
    """Why a text is not taken.

    Attributes:
        problem: what kind of fault it is.
        place: ``, line 3, column 1`` or empty.
        what: the fault itself; with ``place`` before it, it is the message.
    """

    def __init__(self, problem: Problem, what: str, mark: Any = None) -> None:
        self.problem: Problem = problem
        self.what = what
        self.place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        super().__init__(f"{self.place.removeprefix(', ')}: {what}" if self.place else what)


class _Loader(_Base):
    """SafeLoader with fewer scalars, refusing duplicate keys."""


def strict_yaml(data: bytes, *, quoted: bool = False) -> list[Any]:
    """Return the documents of a text in UTF-8, an empty one as None; raises YamlError.

    With ``quoted``, what other readers of YAML take for a number, a moment or a truth value and this one for text (1.5,
    2020-01-01, yes) has to be in quotes: for values whose type nothing else says.
    """
    if len(data) > MAX_BYTES:
        raise YamlError("too-large", f"it has {len(data)} bytes, at most {MAX_BYTES} are allowed")
    try:
        text = data.decode("utf-8")
        _check_events(text, quoted=quoted)
        return list(yaml.load_all(text, Loader=_Loader))
    except UnicodeDecodeError as error:
        raise YamlError("not-yaml", f"it is not UTF-8 at byte {error.start}") from error
    except _DuplicateKeyError as error:
        raise YamlError("duplicate-key", f"key {error.key!r} appears twice", error.problem_mark) from error
    except yaml.MarkedYAMLError as error:
        raise YamlError("not-yaml", f"it is not YAML: {error.problem or error}", error.problem_mark) from error
    except YamlError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise YamlError("not-yaml", f"it cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error


def strict_mapping(data: bytes, *, quoted: bool = False) -> dict[str, Any]:
    """Return the one document of a text, which must be a mapping; raises YamlError."""
    found = strict_yaml(data, quoted=quoted)
    if len(found) != 1 or not isinstance(found[0], dict):
        raise YamlError("not-yaml", "it must hold one mapping")
    return found[0]


def _check_events(text: str, *, quoted: bool) -> None:
    """Bound depth and number of documents and refuse anchors and tags, before anything is built."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise YamlError("alias", "anchors and aliases are not taken", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise YamlError("not-yaml", "tags are not taken", event.start_mark)
        if quoted and isinstance(event, yaml.ScalarEvent) and event.implicit[0] and _two_readings(event.value):
            raise YamlError("not-yaml", f"{event.value[:80]!r} has two readings; quote it", event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        documents += isinstance(event, yaml.DocumentStartEvent)
        if depth > MAX_DEPTH:
            raise YamlError("not-yaml", f"more than {MAX_DEPTH} levels", event.start_mark)
        if documents > MAX_DOCUMENTS:
            raise YamlError("too-large", f"it has more than {MAX_DOCUMENTS} documents")


def _two_readings(text: str) -> bool:
    """Whether other readers of YAML take a plain scalar for something else than this one."""
    loaders: tuple[Any, ...] = (yaml.SafeLoader(""), _Loader(""))
    theirs, ours = (loader.resolve(yaml.ScalarNode, text, (True, False)) for loader in loaders)
    return bool(theirs != ours)


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
