"""P1: what one task of a libp2p service raises stays the failure of that task."""

from __future__ import annotations

from typing import Any

import trio
from libp2p.tools.anyio_service.trio_manager import TrioManager

from transport.host.hardening.quiet import log


class ContainedManager(TrioManager):  # type: ignore[misc]  # libp2p ships no types
    """Runs a libp2p service so that the failure of one of its tasks stays the failure of that task.

    tools/anyio_service/trio_manager.py:375 cancels the whole service, hence the host, when any task raises: a gossip
    message whose key does not parse is enough (pubsub/validators.py:62 through pubsub/pubsub.py:586). It also refuses
    to start tasks once a task has had too many children, and searches all tasks for each start (trio_manager.py:300).
    """

    def run_task(
        self, async_fn: Any, *args: Any, daemon: bool = False, name: str | None = None, _internal: bool = False
    ) -> None:
        """Start a task in the service's nursery; a daemon that fails starts again after a second."""
        if self._task_nursery is None:
            raise RuntimeError("the service does not run")
        self._task_nursery.start_soon(self._contain, async_fn, args, daemon, name=name or str(async_fn))

    async def _contain(self, async_fn: Any, args: tuple[Any, ...], daemon: bool) -> None:
        while True:
            try:
                await async_fn(*args)
            except Exception as error:
                log.debug("a libp2p task failed: %s: %r", async_fn, error)
            if not daemon or self.is_cancelled:
                return
            await trio.sleep(1.0)
