"""Threads for bytes on their way to and from the object store. They are not those that requests are worked on with:
whoever waits for a disk or for S3 does not hold up the quick ones.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

Result = TypeVar("Result")

_movers = CapacityLimiter(40)


async def move(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function that moves bytes."""
    return await to_thread.run_sync(function, *arguments, limiter=_movers)


async def chunks_of(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Chunks, each fetched so."""
    iterator = iter(chunks)
    while (chunk := await move(next, iterator, None)) is not None:
        yield chunk
