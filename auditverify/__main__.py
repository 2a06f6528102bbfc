"""``python -m auditverify export.ndjson``."""

from __future__ import annotations

import sys

from auditverify.cli import main

sys.exit(main(sys.argv[1:]))
