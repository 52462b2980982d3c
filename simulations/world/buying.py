"""How a simulated client uses its node: asks, reads the answer, and tries again when it was told to come back."""

from __future__ import annotations

import random
from dataclasses import dataclass

import trio

from compute.tasks import EmbedRequest, Request, Segment, Task, TextDelta, TranscribeRequest
from compute.usage import UNITS_PER_PRICE, Unit
from overlay.errors import Busy, CocoonError, NoProvider, UnknownModel
from overlay.market.selection import MAIN_UNIT
from overlay.node.client import ClientNode
from simulations.results import Job
from simulations.world.wording import read_prompt
from transport.identity import PeerId

RETRY_S = (1.5, 4.5)
"""Between two tries of a client that found everybody full or too dear: drawn, so that they do not come back at once."""


@dataclass(eq=False)
class Order:
    """One job on its way; :meth:`row` is what the result keeps of it."""

    client: int
    group: str
    task: Task
    asked_at_s: float
    outcome: str = "running"
    provider: PeerId | None = None
    first_token_at_s: float | None = None
    ended_at_s: float | None = None
    tries: int = 1
    units: int = 0
    paid_nanoton: int = 0
    wanted: int = 0
    value_per_million: int = 0
    value_of_time: int = 0
    error: str = ""
    model: str = ""
    prompt: int = 0
    sent_at_s: float | None = None

    @property
    def value_nanoton(self) -> int:
        """What was delivered is worth that."""
        return self.value_per_million * self.units // UNITS_PER_PRICE

    def row(self, provider: int | None) -> Job:
        """For the result, with the provider's number."""
        return Job(
            self.client, self.group, self.task.value, self.asked_at_s, self.outcome, provider, self.first_token_at_s,
            self.ended_at_s, self.tries, self.units, self.paid_nanoton, self.value_nanoton, self.wanted,
            self.value_per_million, self.value_of_time, self.error, self.model, self.prompt, self.sent_at_s,
        )  # fmt: skip


def lengths(request: Request) -> tuple[int, int]:
    """Tokens of the prompt, and how long the whole answer is in the main unit."""
    if isinstance(request, TranscribeRequest):
        return 0, request.duration_ms
    return (0, 0) if isinstance(request, EmbedRequest) else read_prompt(request)


async def buy(node: ClientNode, request: Request, order: Order, *, retries: int, rng: random.Random) -> None:
    """Have ``request`` served, and note in ``order`` what came of it. Raises nothing but what cancels it."""
    attempt = 0
    while True:
        try:
            await _serve(node, request, order)
        except (NoProvider, Busy, UnknownModel) as error:
            order.outcome, order.error = "refused", type(error).__name__
            attempt += 1
            if order.units == 0 and attempt <= retries:
                await trio.sleep(rng.uniform(*RETRY_S))
                continue
        except CocoonError as error:
            order.outcome, order.error = "failed", f"{type(error).__name__}: {error}"[:200]
        else:
            order.outcome, order.error = "done", ""
        order.ended_at_s = trio.current_time()
        return


async def _serve(node: ClientNode, request: Request, order: Order) -> None:
    unit: Unit = MAIN_UNIT[request.task]
    async with node.run(request) as run:
        order.provider, order.tries = run.provider, run.tries
        order.sent_at_s = trio.current_time() - run.first_s
        try:
            async for events in run:
                if order.first_token_at_s is None and any(isinstance(e, TextDelta | Segment) for e in events):
                    order.first_token_at_s = trio.current_time()
        finally:
            order.units, order.paid_nanoton = run.usage.get(unit), run.paid_nanoton
