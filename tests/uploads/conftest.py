"""The running application, for the tests of uploads in parts."""

from live_server import live

__all__ = ["live"]
