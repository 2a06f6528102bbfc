"""One installation with a past for each module here; tests and examples use up copies of its homes.

Not one for all of them: the property has others sign newer documents, which another module must not meet.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from tests.hostile.lying_hub.hub import lying_hub
from tests.hostile.lying_hub.installation import Installation, install


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A hub with three recorded moments, an author who remembers, and a runner who does not."""
    directory = tmp_path_factory.mktemp("lying-hub")
    with structlog.testing.capture_logs(), lying_hub(directory) as hub:
        yield install(hub, directory)
