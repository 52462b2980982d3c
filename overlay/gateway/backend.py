"""What the gateway needs of the node: models to list, and a way to run a job.

The gateway knows HTTP and OpenAI's shapes; finding providers, paying and streaming are behind this protocol. Failures
come as :class:`~overlay.errors.CocoonError` or :class:`~compute.tasks.TaskError`, from any of the steps.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from compute.tasks import Event, Request, Task
from compute.usage import Prices, Usage


@dataclass(frozen=True)
class ModelInfo:
    """A model on offer: what it does, how many providers serve it, the least ask seen, a note for people."""

    id: str
    tasks: Collection[Task]
    providers: int
    min_ask: Prices | None = None
    note: str = ""


class JobRun(Protocol):
    """A job that was agreed upon and is running. Iterate it once; leaving its context cancels it.

    Each item is the events that arrived together. ``usage`` and ``paid_nanoton`` are final once the iteration ended.
    """

    @property
    def model(self) -> str:
        """The model that serves the job (the request may have left the choice open)."""

    @property
    def provider(self) -> str:
        """The peer id of the provider."""

    @property
    def relayed(self) -> bool:
        """Whether the tunnel goes through a relay."""

    @property
    def prices(self) -> Prices:
        """The agreed prices."""

    @property
    def usage(self) -> Usage:
        """What was used so far."""

    @property
    def paid_nanoton(self) -> int:
        """What it cost so far."""

    def __aiter__(self) -> AsyncIterator[list[Event]]:
        """The events, in batches, until the job ends."""


class JobBackend(Protocol):
    """The node, as the gateway sees it."""

    async def models(self) -> list[ModelInfo]:
        """What can be bought now."""

    def run(self, request: Request) -> AbstractAsyncContextManager[JobRun]:
        """Run one job. On cancellation it is cancelled at the provider too, and only what was delivered is paid."""
