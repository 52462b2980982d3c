"""Keeping the connection to the bootstrap peers: try, back off, tell."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator

import trio

from transport.host.interface import DialError
from transport.host.limits import (
    BOOTSTRAP_FIRST_RETRY_S,
    BOOTSTRAP_MAX_RETRY_S,
    BOOTSTRAP_RECHECK_S,
    BOOTSTRAP_STABLE_S,
)


def retry_delays(rng: random.Random) -> Iterator[float]:
    """Seconds to wait after each failure in a row: doubling up to a cap, each up to a quarter shorter at random."""
    delay = BOOTSTRAP_FIRST_RETRY_S
    while True:
        yield delay * rng.uniform(0.75, 1.0)
        delay = min(2 * delay, BOOTSTRAP_MAX_RETRY_S)


async def keep_connected(
    connect: Callable[[], Awaitable[object]],
    connected: Callable[[], bool],
    tell: Callable[[str], None],
    rng: random.Random,
    lost: Callable[[], Awaitable[object]] | None = None,
) -> None:
    """Call ``connect`` whenever not ``connected`` (or connected well enough), for ever; ``tell`` gets one line
    for each failure. With ``lost``, which waits for the end of the connection, nobody looks every few seconds whether
    it stands."""
    delays, since = retry_delays(rng), float("-inf")
    while True:
        while not connected():
            try:
                await connect()
                since = trio.current_time()
            except DialError as error:
                delay = next(delays)
                tell(f"{error}; next attempt in {delay:.0f} s")
                await trio.sleep(delay)
        if lost is not None:
            await lost()
        else:
            await trio.sleep(BOOTSTRAP_RECHECK_S)
        if not connected():
            if trio.current_time() >= since + BOOTSTRAP_STABLE_S:
                delays = retry_delays(rng)
            else:  # it is full, and closes what it has just taken
                await trio.sleep(next(delays))
