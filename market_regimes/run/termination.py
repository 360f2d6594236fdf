"""How a run is asked to end. Without torch, as the command line catches it before anything is trained."""

from __future__ import annotations


class Terminated(KeyboardInterrupt):
    """SIGTERM asked the program to end, where Ctrl-C raises ``KeyboardInterrupt``."""
