"""The list of what is inside an image: CycloneDX 1.6 JSON, from what is pinned, the same bytes for the same image.

Specification: CycloneDX 1.6 (ECMA-424); package URLs by purl-spec.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from tools.image.finish import Side
from tools.image.lock import Pin, lock_of, normal, pins
from tools.image.packages import Package
from tools.parts.model import PARTS


def sbom(side: Side, version: str, packages: Sequence[Package], installed: Sequence[str]) -> bytes:
    """Return the document.

    Args:
        side: which image.
        version: of this tree.
        packages: of the base.
        installed: ``name-version`` of every wheel that was installed; of a lock for all systems these are not all.
    """
    there = {_wheel(one) for one in installed}
    locked = pins(lock_of(side.name).read_text()) if installed else []
    components = [_debian(one) for one in packages]
    components += [_python(one) for one in locked if (one.name, one.version) in there]
    if side.opa:
        components.append(_go(PARTS["opa"].requirement, PARTS["opa"].version))
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": side.program, "version": version}},
        "components": components,
    }
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def _wheel(text: str) -> tuple[str, str]:
    name, _, version = text.partition("-")
    return normal(name), version


def _component(kind: str, name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": kind, "name": name, "version": version, "purl": purl, "bom-ref": purl}


def _debian(package: Package) -> dict[str, Any]:
    architecture = package.file.removesuffix(".deb").rpartition("_")[2]
    purl = f"pkg:deb/debian/{quote(package.name)}@{quote(package.version)}?arch={architecture}&distro=debian-12"
    hashes = [{"alg": "SHA-256", "content": package.sha256}]
    return _component("library", package.name, package.version, purl) | {"hashes": hashes}


def _python(pin: Pin) -> dict[str, Any]:
    # A lock names every file of a release and not which one was taken, so no hash of it is claimed.
    return _component("library", pin.name, pin.version, f"pkg:pypi/{pin.name}@{quote(pin.version)}")


def _go(module: str, version: str) -> dict[str, Any]:
    return _component("application", module.rpartition("/")[2], version, f"pkg:golang/{module}@v{version}")
