"""Run a module under a sampling thread: ``python -m bench.sampled OUT MODULE ARGUMENTS…``.

Every 5 ms the main thread's stack is looked at; SIGUSR1 writes what was seen since the last time to OUT.<n>, as one
line per function with its share of the samples (self and with callees). Waiting in ``select`` counts as idle.
"""

from __future__ import annotations

import runpy
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

_STEP = 0.005
_TOP = 60


class Sampler:
    """Counts functions on the main thread's stack."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._number = 0
        self._own: Counter[str] = Counter()
        self._whole: Counter[str] = Counter()
        self._samples = 0
        self._lock = threading.Lock()

    def run(self) -> None:
        """Sample for ever."""
        main = threading.main_thread().ident
        while True:
            time.sleep(_STEP)
            frame = sys._current_frames().get(main or 0)  # noqa: SLF001 - the documented way to see another thread
            if frame is not None:
                self._count(frame)

    def _count(self, frame: FrameType) -> None:
        names: list[str] = []
        step: FrameType | None = frame
        while step is not None:
            code = step.f_code
            names.append(f"{'/'.join(Path(code.co_filename).parts[-3:])}:{code.co_firstlineno} {code.co_qualname}")
            step = step.f_back
        with self._lock:
            self._samples += 1
            self._own[names[0]] += 1
            self._whole.update(set(names))

    def write(self, *_: object) -> None:
        """Write and forget what was seen."""
        with self._lock:
            own, whole, samples = self._own, self._whole, self._samples
            self._own, self._whole, self._samples = Counter(), Counter(), 0
        self._number += 1
        lines = [f"{samples} samples"]
        for title, counts in (("with callees", whole), ("self", own)):
            lines += ["", title]
            lines += [f"{count / max(1, samples):7.1%}  {name}" for name, count in counts.most_common(_TOP)]
        self._out.with_name(f"{self._out.name}.{self._number}").write_text("\n".join(lines) + "\n")


def main() -> None:
    """Start the sampler, then the module as if it had been started itself."""
    sampler = Sampler(Path(sys.argv[1]))
    signal.signal(signal.SIGUSR1, sampler.write)
    threading.Thread(target=sampler.run, daemon=True, name="sampler").start()
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
