"""``python -m hub.cli``: the ``cellward`` command without its installed script."""

from __future__ import annotations

from hub.cli.main import main

if __name__ == "__main__":
    main()
