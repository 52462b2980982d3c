"""A nursery for tasks in the background of a block, which leaves the block's own exception as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def background() -> AsyncIterator[trio.Nursery]:
    """Like ``trio.open_nursery``, but the tasks are cancelled at the end of the block, and what the block raises comes
    out bare rather than in an exception group. A task that raises cancels the block and raises a group, as in trio."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except BaseException as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
