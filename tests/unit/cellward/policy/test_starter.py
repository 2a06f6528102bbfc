"""The starter bundle as it is published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cellward.policy.bundle import build_bundle, read_bundle
from cellward.policy.compile import Compiler

STARTER = Path(__file__).parents[4] / "policies" / "starter"
RULES = {
    "starter/pod-security/privileged",
    "starter/pod-security/host-access",
    "starter/pod-security/run-as-non-root",
    "starter/images/registry",
    "starter/images/mutable-tag",
    "starter/resources/requests-and-limits",
    "starter/metadata/owner-and-labels",
    "starter/network/service-type",
    "starter/network/host-network",
    "starter/network/plugin-annotations",
    "starter/tenancy/scheduling",
    "starter/tenancy/storage",
    "starter/tenancy/finalizers",
    "starter/isolation/proof",
}


def test_builds_the_same_bytes_twice_without_tests() -> None:
    """The digest is an identity of the content; tests are not shipped."""
    first = build_bundle(STARTER)
    assert first == build_bundle(STARTER)
    bundle = read_bundle(first)
    assert bundle.target_path == "bundles/starter-1.0.0.tar.gz"
    assert not [path for path in bundle.files if "test" in path]


def test_every_rule_is_described_once() -> None:
    """METADATA names each id once, with title, description, severity, remediation and controls."""
    text = "".join(file.decode() for path, file in read_bundle(build_bundle(STARTER)).files.items() if "rules/" in path)
    assert sorted(re.findall(r"#   id: (\S+)", text)) == sorted(RULES)
    blocks = [block for block in text.split("# METADATA") if "#   id: " in block]
    for block in blocks:
        for field in ("# title: ", "# description: ", "#   severity: ", "#   remediation: ", "#   controls: ["):
            assert field in block, block[:200]


@pytest.mark.real
async def test_compiles_strictly_with_the_allowed_capabilities(opa_binary: Path) -> None:
    """The engine that publishes and the engine that activates accept it."""
    await Compiler(opa_binary).check([read_bundle(build_bundle(STARTER))], strict=True)


def test_a_link_in_a_bundle_directory_is_refused(tmp_path: Path) -> None:
    """Building never follows a link out of the directory."""
    (tmp_path / ".manifest").write_bytes((STARTER / ".manifest").read_bytes())
    (tmp_path / "x.rego").symlink_to("/etc/hostname")
    with pytest.raises(Exception, match="plain file") as caught:
        build_bundle(tmp_path)
    assert getattr(caught.value, "code", "") == "policy/bad-bundle"
