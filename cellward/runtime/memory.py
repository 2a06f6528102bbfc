"""Python's cyclic garbage collector in a process that lives long and holds much.

By default it looks at young objects after every 700 that were added, and at all of them whenever a quarter is new: a
hub that a thousand agents come back to spent a quarter of its CPU on that, and most of it when they all left at once.
What is freed by counting references, nearly everything, does not depend on it.
"""

from __future__ import annotations

import gc

#: Objects added before the young are looked at; lookings before the next older ones are.
THRESHOLDS = (20_000, 20, 50)


def collect_rarely() -> None:
    """Leave out of every collection what exists now, and collect the rest less often; call it once, after start."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
