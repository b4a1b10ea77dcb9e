"""Named places where a test may kill, break or hold up this process (docs/decisions/0051).

Nothing arms them but the test suite, from inside: no setting and no variable of the environment does. Unarmed, a place
costs one look at a variable.
"""

from collections.abc import Callable

armed: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """A place whose name says what has just been done."""
    if armed is not None:
        armed(name)
