"""What can go wrong while a server is watched.

LorikeetError     (registry)
├── ServerAway    no answer, or none that can be used: it is asked again
└── NotShown      the server answers, but not to us: asking again would not help
"""

from registry import LorikeetError


class ServerAway(LorikeetError):
    """The server cannot be reached, or its answer is no use; that may pass."""


class NotShown(LorikeetError):
    """The server refuses to show its metrics, or has none at this address."""
