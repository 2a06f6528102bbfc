"""The sampler looks at a hub and must not end it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
#: Samples come while what was seen is written, each with a function nobody had seen; by the clock, which is finer.
_PROGRAM = """
import signal, sys
from pathlib import Path
from bench.sampled import Sampler

sampler, seen = Sampler(Path(sys.argv[1])), []

def count(number, frame):
    seen.append(number)
    sampler.count(number, frame)

signal.signal(signal.SIGALRM, count)
for number in range(20):
    for other in range(50000):
        sampler._whole[f"f{other}"] += 1
    names = {}
    exec(f"def f_{number}(write): write()", names)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    names[f"f_{number}"](sampler.write)
    signal.setitimer(signal.ITIMER_REAL, 0)
print(len(seen))
"""


def test_samples_that_come_while_the_sampler_writes_do_not_end_the_process(tmp_path: Path) -> None:
    """What a signal's handler raises would end it."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path / "out")], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0, "no sample came while it wrote: this test shows nothing"
    assert len(list(tmp_path.iterdir())) == 20
