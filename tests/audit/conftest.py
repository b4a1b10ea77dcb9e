"""The running application, for the tests of what it writes down."""

from live_server import live

__all__ = ["live"]
