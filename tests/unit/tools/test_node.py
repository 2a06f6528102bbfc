"""Real nodes without starting one: their addresses, their configuration, and what a machine needs for them."""

from __future__ import annotations

import ipaddress
import itertools
import json
from pathlib import Path

import pytest
import yaml

from cellward.errors import CellwardError
from tests.fakes.refusals import refused
from tools.parts import packages
from tools.parts.model import PARTS
from tools.stack.api import ApiClient
from tools.stack.credentials import Credentials
from tools.stack.node import cgroups, config, lab
from tools.stack.node.ground import API_SERVICE, DNS_SERVICE, SERVICES, Ground
from tools.stack.node.real import NODE_PARTS, RealNode
from tools.stack.steps import drive


def test_no_two_clusters_share_an_address() -> None:
    """Each has its own nodes and pods; services are translated on the node and may be the same."""
    grounds = [Ground(number) for number in (1, 2, 100)]
    networks = [ipaddress.ip_network(ground.pods) for ground in grounds]
    networks += [ipaddress.ip_network(f"{ground.address}/24", strict=False) for ground in grounds]
    networks.append(ipaddress.ip_network(SERVICES))
    assert not any(one.overlaps(other) for one, other in itertools.combinations(networks, 2))
    for ground, index in itertools.product(grounds, (0, 1, 200)):
        assert ipaddress.ip_network(ground.pods_of(index)).subnet_of(ipaddress.ip_network(ground.pods))  # type: ignore[arg-type]  # both are IPv4
        assert ground.node(index) != ground.address
    assert all(ipaddress.ip_address(one) in ipaddress.ip_network(SERVICES) for one in (API_SERVICE, DNS_SERVICE))


@pytest.mark.parametrize("number", [0, 101, -1])
def test_a_cluster_beyond_the_plan_is_refused(number: int) -> None:
    """Its addresses would be somebody else's."""
    with pytest.raises(ValueError, match="1 to 100"):
        Ground(number)


def test_what_a_kubelet_is_told(tmp_path: Path) -> None:
    """It answers nobody without a certificate or a token, and has its own control group."""
    text = config.kubelet(
        tmp_path, ca=tmp_path / "ca", serving=(tmp_path / "c", tmp_path / "k"), cgroup="/cellward-1-a"
    )
    told = yaml.safe_load(text)
    assert told["authentication"]["anonymous"] == {"enabled": False}
    assert told["authorization"] == {"mode": "Webhook"}
    assert told["cgroupRoot"] == "/cellward-1-a"
    assert told["containerRuntimeEndpoint"] == f"unix://{config.socket(tmp_path)}"


def test_pods_get_addresses_of_their_node_only(tmp_path: Path) -> None:
    """The plug-in that gives them has the range of this node."""
    (plugin,) = json.loads(config.cni(tmp_path, "10.101.3.0/24"))["plugins"]
    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.101.3.0/24"}]]
    assert plugin["ipMasq"] is False


def test_parts_of_a_node_are_built_only_when_asked_for() -> None:
    """They take a quarter of an hour, and most commands need none."""
    assert all(not PARTS[name].ordinary for name in NODE_PARTS)
    assert PARTS["kube-apiserver"].ordinary


def test_without_root_there_is_no_node_and_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Asked for where it cannot be, a real node is an error that says why, and nothing is started."""
    monkeypatch.setattr(lab.os, "geteuid", lambda: 1000)
    lab.impossible.cache_clear()
    try:
        assert "root" in lab.impossible()
        node = RealNode(
            "n-1", 0, ground=Ground(1), server="https://10.77.1.1:1", credentials=Credentials(tmp_path),
            directory=tmp_path / "n1",
        )  # fmt: skip
        with refused("stack/no-node") as said:
            drive(node.start_steps(ApiClient("127.0.0.1", 1, tmp_path / "ca")))
        assert "root" in said.value.message
    finally:
        lab.impossible.cache_clear()
    assert not (tmp_path / "n1").exists()


def test_packages_that_cannot_be_had_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without apt, or without a network: nothing half unpacked is left."""
    monkeypatch.setenv("CELLWARD_CACHE", str(tmp_path))
    (tmp_path / "bin").mkdir()
    for name, text in (("apt-get", "echo no network >&2; exit 100"), ("dpkg-deb", "exit 0")):
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    with pytest.raises(CellwardError, match="no network") as said:
        packages.ensure_packages(("containerd",))
    assert said.value.code == "parts/packages-missing"
    assert [path for path in (tmp_path / "packages").rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_group_that_was_left_behind_is_known_by_the_process_that_made_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of a living process they stay, of one that is gone they go, and nobody else's are touched."""
    tree = tmp_path / "memory"
    mine, others = cgroups.new_name(), "kubepods"
    for name in (mine, "cellward-4194999-0123abcd/pods/one", others):
        (tree / name).mkdir(parents=True)
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    cgroups.remove_left_behind()
    assert {path.name for path in tree.iterdir()} == {mine, others}
