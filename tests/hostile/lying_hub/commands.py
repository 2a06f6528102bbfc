"""Every command line that the property knows: the home it begins from, its words, and whom it is to believe when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Commands that are not among those below, each with the reason.
UNTOLD: Mapping[str, str] = {"version": "prints a constant; it reads no home and knows no hub"}


@dataclass(frozen=True, slots=True)
class Line:
    """One command line; in its words ``{home}`` is the home's copy, and what stands in :func:`places`."""

    home: str
    words: tuple[str, ...]

    def filled(self, places: Mapping[str, str], home: Path) -> list[str]:
        """The words as they are typed."""
        return [word.format(**places, home=home) for word in self.words]


def _of(home: str, *texts: str) -> list[Line]:
    return [Line(home, tuple(text.split())) for text in texts]


COMMANDS: tuple[Line, ...] = (
    *_of(
        "author",
        "apply -f {cart_2} -e dev",
        "apply -f {cart_1} -e dev",
        "apply -f {cart_2} -e dev --replace --fallback none",
        "apply -f {front_1} -e dev",
        "apply -f {front_1} -f {cart_1} -e dev",
        "apply -f {cart_1} -e dev --dry-run",
        "apply -f {cart_2} -e dev --wait --timeout 1",
        "delete shop/cart -e dev",
        "delete shop/cart -e dev --wait --timeout 1",
        "delete shop/cart -e dev --delete-data --dry-run",
    ),
    *_of(
        "runner",
        "apply -f {cart_2} -e dev",
        "apply -f {front_1} -e dev",
        "apply -f {front_1} -e dev --peer {peer}",
        "delete shop/cart -e dev",
    ),
    *_of(
        "author",
        "policy publish {starter} --skip-compile",
        "policy publish {starter} --skip-compile --dry-run",
        "policy publish {starter} --skip-compile --propose {home}/new.json",
        "policy refresh",
        "policy refresh --dry-run",
        "policy refresh --wait --timeout 1",
        "policy minimum shop",
        "policy minimum * --clear",
        "policy list -o yaml",
        "author add carol --key {carol}",
        "author add carol --key {carol} --dry-run",
        "author revoke ada --compromised",
        "author rotate ada --key {carol}",
        "lock cluster/us-1 --reason stolen --signed",
        "unlock cluster/old-1 --signed",
        "quarantine shop/cart -e dev --reason leaks --signed",
        "lift shop/cart --signed",
        "trust upgrade --out {home}/new.json --policy {carol}",
        "trust sign {home}/proposal.json",
        "trust sign {home}/signed.json",
        "trust submit {home}/signed.json",
        "trust submit {home}/proposal.json",
        "trust show",
        "trust learn",
        "trust hub",
        "trust hub --tree-head {tree_head}",
        "trust upgrade --out {home}/new.json --timestamp {timestamp}",
        "trust submit {home}/signed.json --bundles {starter}",
        "trust repair",
        "trust follow",
        "trust follow --out {home}/new.json",
        "keys list",
        "keys create spare --no-passphrase",
    ),
    *_of(
        "runner",
        "policy publish {starter} --skip-compile",
        "policy refresh",
        "author add carol --key {carol}",
        "author revoke bob --compromised",
        "trust submit {home}/signed.json",
        "trust learn",
    ),
    *_of(
        "author",
        "clusters endorse eu-1 --kubeconfig {kubeconfig}",
        "clusters endorse eu-1 --kubeconfig {kubeconfig} --dry-run",
        "clusters invite eu-1",
        "clusters invite us-1 --replace -o json",
        "clusters invite ap-1 --environment dev --no-production -o yaml",
        "clusters invite eu-1 --agent-config {home}/agent",
        "clusters list -o json",
        "clusters upgrade",
        "clusters upgrade eu-1 --check --to 0.2.0 -o json",
        "clusters command eu-1 resync --timeout 0",
        "clusters command eu-1 diagnose --id look-0001 --timeout 1 -o json",
        "clusters remove us-1 --confirm us-1",
        "clusters remove us-1 --dry-run",
        "lock agent/00000000-0000-4000-8000-000000000001 --reason stolen",
        "unlock cluster/us-1",
        "unlock cluster/us-1 --rekey",
        "locks",
        "hold shop/cart",
        "quarantine shop/cart -e dev",
        "lift shop/cart",
        "tokens create --name bot --role deployer",
        "tokens create --name bot --role deployer --file {home}/bot",
        "tokens list",
        "tokens revoke ci",
        "status",
        "check",
        "cells list",
        "cells top",
        "cells top --sort memory -o json",
        "cells show shop/cart -o json",
        "isolation matrix",
        "isolation test shop/cart -o json",
        "isolation explain shop/front/dev shop/cart/dev -o json",
        "audit tail",
        "audit tail -o json",
        "audit export {home}/new.ndjson",
        "audit export -",
        "audit verify {home}/export.ndjson",
        "audit witness {home}/witness",
        "audit witness {home}/another",
    ),
    *_of("nobody", "login --server {server} --ca-file {hub_ca} --token-file {token}", "status"),
    *_of("fresh", "init --no-passphrase --owner ada", "check"),
)
#: Lines that change something at a hub which has not been asked for it before: its answer is what lies are made of.
CHANGING = (
    "apply -f {cart_1} -e dev --dry-run",
    "lock agent/00000000-0000-4000-8000-000000000001 --reason stolen",
    "hold shop/cart",
    "quarantine shop/cart -e dev",
    "lift shop/cart",
    "clusters invite ap-1 --environment dev --no-production -o yaml",
    "policy publish {starter} --skip-compile",
    "apply -f {cart_1} -e dev",
    "delete shop/cart -e dev --delete-data --dry-run",
    "unlock cluster/us-1 --rekey",
    "tokens revoke ci",
    "clusters endorse eu-1 --kubeconfig {kubeconfig}",
    "clusters remove us-1 --confirm us-1",
)
