"""Run a module under a sampling profiler: ``python -m bench.sampled OUT MODULE ARGUMENTS…``.

After every 5 ms of CPU time of the process (ITIMER_PROF) the main thread's stack is counted. A sample in ``select``
therefore means that another thread used the CPU: gRPC's own, the database's, a worker's. SIGUSR1 writes what was seen
since the last time to OUT.<n>: one line per function with its share of the samples, with its callees and by itself.
"""

from __future__ import annotations

import runpy
import signal
import sys
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

    def count(self, _: int, frame: FrameType | None) -> None:
        """Count one sample; a signal handler, so it runs in the main thread between two instructions."""
        names: list[str] = []
        while frame is not None:
            code = frame.f_code
            parts = code.co_filename.rsplit("/", 3)[1:]
            names.append(f"{'/'.join(parts)}:{code.co_firstlineno} {code.co_qualname}")
            frame = frame.f_back
        self._samples += 1
        self._own[names[0]] += 1
        self._whole.update(set(names))

    def write(self, *_: object) -> None:
        """Write and forget what was seen.

        The counters are exchanged first: the next sample may come while they are read, and what a signal's handler
        raises ends the process that is looked at.
        """
        # A hub that was restarted goes on after the files of the one before.
        while (out := self._out.with_name(f"{self._out.name}.{self._number + 1}")).exists():
            self._number += 1
        own, whole, samples = self._own, self._whole, self._samples
        self._own, self._whole, self._samples = Counter(), Counter(), 0
        lines = [f"{samples} samples, {samples * _STEP:.1f} s of CPU"]
        for title, counts in (("with callees", whole), ("by itself", own)):
            lines += ["", title]
            lines += [f"{count / max(1, samples):7.1%}  {name}" for name, count in counts.most_common(_TOP)]
        out.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Start the sampler, then the module as if it had been started itself."""
    sampler = Sampler(Path(sys.argv[1]))
    signal.signal(signal.SIGUSR1, sampler.write)
    signal.signal(signal.SIGPROF, sampler.count)
    signal.setitimer(signal.ITIMER_PROF, _STEP, _STEP)
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
