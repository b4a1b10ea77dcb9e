"""The running application, for the tests of what surrounds every request."""

from live_server import live

__all__ = ["live"]
