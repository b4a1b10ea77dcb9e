"""The running application, for the tests of who is let in."""

from live_server import live

__all__ = ["live"]
