"""Addresses of a control plane with real nodes, as pure arithmetic: none of them exists outside the laboratory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Addresses of the services of every cluster; they are translated on its nodes and never leave them.
SERVICES: Final = "10.96.0.0/16"
#: The API server as pods know it: the first of them.
API_SERVICE: Final = "10.96.0.1"
DNS_SERVICE: Final = "10.96.0.10"


@dataclass(frozen=True, slots=True)
class Ground:
    """The addresses of one cluster.

    Attributes:
        number: of the cluster in the laboratory, 1 to 100.
    """

    number: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= 100:
            raise ValueError(f"{self.number} is not 1 to 100")

    @property
    def address(self) -> str:
        """Where nodes and pods find what runs in the laboratory: API server and hub."""
        return f"10.77.{self.number}.1"

    @property
    def pods(self) -> str:
        """Addresses of all pods."""
        return f"10.{100 + self.number}.0.0/16"

    def node(self, index: int) -> str:
        """Address of the node with this index, from 0."""
        return f"10.77.{self.number}.{2 + index}"

    def pods_of(self, index: int) -> str:
        """Addresses of the pods of a node."""
        return f"10.{100 + self.number}.{index}.0/24"
