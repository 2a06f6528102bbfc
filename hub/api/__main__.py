"""Print the OpenAPI document: ``python -m hub.api > docs/reference/openapi.json``."""

from __future__ import annotations

import json
import sys

from hub.api.app import openapi_document


def render() -> str:
    """Return the document as it is committed."""
    return json.dumps(openapi_document(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
