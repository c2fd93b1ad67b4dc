"""A frame of a server that tells all that there is to tell."""

import pytest
from exposition import look, metrics

from serve.top.frame import Frame
from serve.top.source import Residency


@pytest.fixture
def frame() -> Frame:
    """Of a server whose two scrapes are ten seconds apart."""
    before = look(metrics(1), 100.0)
    adapters = {
        "opl@1": Residency("loaded", 3, None, ("prod",)),
        "cold@1": Residency("cold"),
        "bad@2": Residency("quarantined", reason="its output is not finite"),
        "warm@1": Residency("loaded"),
    }
    return Frame.of("http://test", look(metrics(2), 110.0, adapters), before.scrape)
