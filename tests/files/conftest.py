"""The running application, for the tests of the files routes."""

from live_server import live

__all__ = ["live"]
