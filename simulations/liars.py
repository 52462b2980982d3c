"""Nodes of the hash table that lie: ids ground until they are the nearest to a key, and answers that name nobody else.

Shared by benchmarks of look-ups and by simulated worlds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from dht.kad import KadError, key_of
from dht.kad.contacts import Contact
from dht.kad.keys import peer_bytes
from dht.kad.messages import Message, MessageType, Record, encode_message, parse_message
from transport.host import HostStream
from transport.identity import Identity

GROUND_PER_LIAR = 400
"""Ids made for each that is used: what a minute of one core buys each of them. The nearest of all of them shares eight
bits more with the key than the nearest honest node."""

TOLD = 20
"""Contacts in an answer, as honest nodes give (k)."""

MAX_MESSAGE_BYTES = 1 << 16
"""Of a request; honest ones have far less."""


def ground(key: bytes, count: int, make: Callable[[], Identity], *, each: int = GROUND_PER_LIAR) -> list[Identity]:
    """``count`` identities near ``key``: the nearest of ``each`` times as many."""
    target = key_of(key)
    made = (make() for _ in range(each * count))
    return sorted(made, key=lambda identity: key_of(peer_bytes(identity.peer_id)) ^ target)[:count]


def lies(
    crowd: Sequence[Contact], record_of: Callable[[bytes], bytes | None] = lambda _key: None
) -> Callable[[HostStream], Awaitable[None]]:
    """A handler of the table's protocol: whatever is asked, all that are nearer are of the crowd. It takes every value
    and keeps none; under a key it has the value that ``record_of`` gives, if one."""
    nearest: dict[bytes, tuple[Contact, ...]] = {}

    async def lie(stream: HostStream) -> None:
        while True:
            try:
                request = parse_message(await stream.receive(MAX_MESSAGE_BYTES))
            except KadError:
                return
            target = key_of(request.key)
            if request.key not in nearest:
                nearest[request.key] = tuple(sorted(crowd, key=lambda it: it.key ^ target)[:TOLD])
            record = None
            if request.type is MessageType.PUT_VALUE:
                record = request.record
            elif request.type is MessageType.GET_VALUE and (value := record_of(request.key)) is not None:
                record = Record(request.key, value)
            elif request.type is MessageType.ADD_PROVIDER:
                continue
            await stream.send(encode_message(Message(request.type, request.key, record, nearest[request.key])))

    return lie
