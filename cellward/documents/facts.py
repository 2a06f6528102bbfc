"""Cluster facts and selectors over them: what a cluster is, from its own configuration, never from the hub.

Bindings, approvals, exceptions and placement match facts only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cellward.documents import canonical, names
from cellward.documents.canonical import JSON
from cellward.documents.errors import EMPTY_SELECTOR
from cellward.documents.fields import Fields, strings

_FACTS = ("name", "uid", "environments", "production", "labels", "region", "projects")
_SELECTOR = ("all", "names", "environments", "production", "regions", "labels")


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a data plane is: chart values, read-only for the agent.

    ``environments`` are those it hosts; ``projects`` may run here, ``("*",)`` means all; ``uid`` was made by the agent
    and is never reused.
    """

    name: str
    uid: str
    environments: tuple[str, ...]
    production: bool
    labels: Mapping[str, str] = field(default_factory=dict)
    region: str = ""
    projects: tuple[str, ...] = ("*",)

    def allows_project(self, project: str) -> bool:
        """Whether cells of the project may run here."""
        return "*" in self.projects or project in self.projects

    def to_json(self) -> dict[str, JSON]:
        """Return the facts as JSON; this is also what policy sees as ``input.verified.cluster``."""
        return {
            "name": self.name,
            "uid": self.uid,
            "environments": list(self.environments),
            "production": self.production,
            "labels": strings(self.labels),
            "region": self.region,
            "projects": list(self.projects),
        }

    @classmethod
    def from_json(cls, value: JSON) -> ClusterFacts:
        """Read facts strictly; raises document/malformed or document/unknown-field."""
        fields = Fields(value, _FACTS, "the cluster facts")
        return cls(
            name=fields.text("name"),
            uid=fields.text("uid"),
            environments=fields.names("environments", names.ENVIRONMENT_MAX, empty=True),
            production=fields.boolean("production"),
            labels=fields.labels("labels"),
            region=fields.text("region"),
            projects=fields.names("projects", names.PROJECT_MAX, star=True, empty=True),
        )

    def digest(self) -> str:
        """Return the digest of the canonical form; the hub uses it to see a change."""
        return canonical.digest(canonical.encode(self.to_json()))


@dataclass(frozen=True, slots=True)
class Selector:
    """Chooses clusters by facts: everything that is said must hold, of a list any item, of labels all.

    ``all`` selects every cluster. A selector that says nothing matches nothing, and is refused when read.
    """

    all: bool = False
    names: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    production: bool | None = None
    regions: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Whether nothing is said."""
        said = self.names or self.environments or self.regions or self.labels
        return not (self.all or said or self.production is not None)

    def matches(self, facts: ClusterFacts) -> bool:
        """Whether a cluster with these facts is selected."""
        if self.empty:
            return False
        return (
            (not self.names or facts.name in self.names)
            and (not self.environments or not set(self.environments).isdisjoint(facts.environments))
            and (self.production is None or facts.production is self.production)
            and (not self.regions or facts.region in self.regions)
            and all(facts.labels.get(key) == value for key, value in self.labels.items())
        )

    def to_json(self) -> dict[str, JSON]:
        """Return the selector as JSON, only what it says; raises document/empty-selector when that is nothing."""
        if self.empty:
            raise EMPTY_SELECTOR("a selector that says nothing cannot be signed")
        result: dict[str, JSON] = {}
        if self.all:
            result["all"] = True
        if self.production is not None:
            result["production"] = self.production
        for name, value in (("names", self.names), ("environments", self.environments), ("regions", self.regions)):
            if value:
                result[name] = list(value)
        if self.labels:
            result["labels"] = strings(self.labels)
        return result

    @classmethod
    def from_json(cls, value: JSON) -> Selector:
        """Read a selector strictly: no empty lists, no ``all`` beside criteria, no ``all: false``.

        Raises document/empty-selector, document/malformed, document/unknown-field.
        """
        fields = Fields(value, _SELECTOR, "the selector")
        selector = cls(
            all=fields.boolean("all") if fields.has("all") else False,
            names=_said(fields, "names"),
            environments=_said(fields, "environments"),
            production=fields.boolean("production") if fields.has("production") else None,
            regions=_said(fields, "regions"),
            labels=fields.labels("labels") if fields.has("labels") else {},
        )
        if selector.empty:
            raise EMPTY_SELECTOR("the selector says nothing")
        if selector.to_json() != value or (selector.all and len(selector.to_json()) > 1):
            fields.fail("all", "stands beside criteria, or an item of the selector is empty")
        return selector


def _said(fields: Fields, name: str) -> tuple[str, ...]:
    return fields.texts(name) if fields.has(name) else ()
