"""What the tests of graders share."""

import pytest

from app.graders.sandbox import Limits, Sandbox

MIB = 1024 * 1024


@pytest.fixture(scope="session")
def sandbox() -> Sandbox:
    return Sandbox(Limits(seconds=10, memory=512 * MIB, disk=16 * MIB))
