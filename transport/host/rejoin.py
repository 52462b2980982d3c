"""Finding company again: dialling remembered peers, and writing down where peers were reached."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence

import trio

from transport.host.bootstrap import retry_delays
from transport.host.hardening import log
from transport.host.limits import BOOTSTRAP_RECHECK_S, PEERSTORE_SAVE_S, REJOIN_AT_ONCE
from transport.host.peerbook import PeerBook
from transport.host.peerstore import PeerStore, PeerStoreError
from transport.identity import PeerId


async def keep_company(
    lonely: Callable[[], bool],
    acquaintances: Callable[[], Sequence[PeerId]],
    dial: Callable[[PeerId], Awaitable[object]],
    rng: random.Random,
) -> None:
    """While ``lonely``, ``dial`` one acquaintance after another, a few at a time, for ever. ``dial`` does not raise."""
    while True:
        delays = retry_delays(rng)
        while lonely():
            waiting = list(acquaintances())

            async def work(waiting: list[PeerId] = waiting) -> None:
                while waiting and lonely():
                    await dial(waiting.pop(0))

            async with trio.open_nursery() as nursery:
                for _ in range(REJOIN_AT_ONCE):
                    nursery.start_soon(work)
            if lonely():
                await trio.sleep(next(delays))
        await trio.sleep(BOOTSTRAP_RECHECK_S)


async def keep_saving(book: PeerBook, store: PeerStore) -> None:
    """Write the book's news to ``store``, for ever. What cannot be written now is tried again with the next news."""
    while True:
        await trio.sleep(PEERSTORE_SAVE_S)
        if changes := book.take_changes():
            try:
                await trio.to_thread.run_sync(store.save, changes)
            except BaseException as error:
                book.put_back(peer for peer, _ in changes)
                if not isinstance(error, PeerStoreError):
                    raise
                log.warning("%s", error)
