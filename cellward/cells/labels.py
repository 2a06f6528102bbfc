"""Label and annotation names, and the sets of them that rendered objects carry."""

from __future__ import annotations

from collections.abc import Mapping

from cellward.documents import names

PREFIX = "cellward.dev/"
PROJECT = "cellward.dev/project"
CELL = "cellward.dev/cell"
ENVIRONMENT = "cellward.dev/environment"
#: Of an accepted namespace: the stamp of its project, and that of the cluster (``cellward.cells.stamps``).
STAMP = "cellward.dev/stamp"
CLUSTER_STAMP = "cellward.dev/cluster-stamp"
COMPONENT = "cellward.dev/component"
OWNER = "cellward.dev/owner"
CONFIG_DIGEST = "cellward.dev/config-digest"
#: Annotation of a cell's namespace with that namespace's name: lets the agent put the labels back, see the fence.
TAKE_BACK = "cellward.dev/take-back"
NAME = "app.kubernetes.io/name"
PART_OF = "app.kubernetes.io/part-of"
VERSION = "app.kubernetes.io/version"
MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "cellward"
NAMESPACE_NAME = "kubernetes.io/metadata.name"


def namespace_of(project: str, cell: str, environment: str) -> str:
    """Return the namespace of a cell: ``<project>--<cell>--<environment>``; raises document/bad-name."""
    parts = (names.check_project(project), names.check_cell(cell), names.check_environment(environment))
    return "--".join(parts)


def cell_labels(project: str, cell: str, environment: str) -> dict[str, str]:
    """Return what every object of a cell carries, isolation and namespace too."""
    return {MANAGED_BY: MANAGER, PROJECT: project, CELL: cell, ENVIRONMENT: environment}


def component_labels(base: Mapping[str, str], component: str, version: str) -> dict[str, str]:
    """Return what objects and pods of a component carry."""
    return {**base, NAME: component, PART_OF: base[CELL], VERSION: version, COMPONENT: component}


def without_version(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels for where a change of the version alone must change nothing."""
    return {name: value for name, value in labels.items() if name != VERSION}
