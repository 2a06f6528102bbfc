"""``policy-rules.md``: the rules of the starter bundle, from the METADATA annotations OPA itself reads."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tools.generate.page import ROOT, Page, code, plain
from tools.parts.locate import path_of

BUNDLE = ROOT / "policies" / "starter"


def page(out: Path) -> None:
    """Write ``policy-rules.md``."""
    manifest = json.loads((BUNDLE / ".manifest").read_text())["metadata"]["cellward"]
    rules = sorted(_rules(), key=lambda rule: str(rule["custom"]["id"]))
    page = Page("Rules of the starter bundle", "policies/starter")
    page.text(
        f"Bundle `{manifest['name']}` {manifest['version']}. Each rule is asked about every object of a release, in "
        "the data plane, before anything is applied. A binding can carry parameters for some of them: see "
        "[policies/](../../policies/README.md)."
    )
    page.table(
        ("rule", "severity", "asks for"),
        ((code(rule["custom"]["id"]), rule["custom"]["severity"], plain(rule["title"])) for rule in rules),
    )
    for rule in rules:
        custom = rule["custom"]
        page.heading(code(custom["id"]))
        page.text(f"{plain(rule['title'])}. {plain(rule['description'])}")
        page.bullets(
            (
                f"Severity: {custom['severity']}",
                f"Next: {plain(custom['remediation'])}",
                f"Controls: {'; '.join(custom['controls'])}",
            )
        )
    page.write(out, "policy-rules.md")


def _rules() -> list[dict[str, Any]]:
    """Annotations of every rule that has an id.

    Raises:
        CellwardError: parts/not-there, when there is no OPA of the pinned version.
    """
    command = [str(path_of("opa")), "inspect", "--annotations", "--format", "json", str(BUNDLE)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    annotations = [entry["annotations"] for entry in found["annotations"]]
    return [annotation for annotation in annotations if "id" in annotation.get("custom", {})]
