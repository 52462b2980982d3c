"""Driving look-ups: a request for each step that the pure :class:`dht.kad.lookup.Lookup` names, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import trio

from dht.kad.config import KadConfig
from dht.kad.contacts import Contact
from dht.kad.density import Density
from dht.kad.errors import BadMessage, InvalidRecord
from dht.kad.keys import key_of
from dht.kad.limits import OUTSIDERS, SETTLED, STORE_WIDTH
from dht.kad.lookup import Lookup, LookupRequest
from dht.kad.messages import Message, MessageType, encode_message
from dht.kad.neighbours import Neighbours
from dht.kad.session import NoAnswer, Session, Wire
from dht.kad.validators import Validators
from dht.kad.values import ProviderQuorum, ValueQuorum

Take = Callable[[LookupRequest, Message], bool]
"""Takes one reply; True ends the look-up."""


@dataclass(frozen=True, slots=True)
class LookupReport:
    """One look-up, for whoever measures."""

    kind: MessageType
    hops: int
    """Peers one after another that led to the answer; 0 if there was none."""
    requests: int
    failures: int
    took_s: float
    found: bool
    """Whether what was looked for was found; for FIND_NODE, whether anybody answered."""


class Queries:
    """The look-ups of one node."""

    def __init__(
        self,
        neighbours: Neighbours,
        validators: Validators,
        wire: Wire,
        config: KadConfig,
        report: Callable[[LookupReport], None],
    ) -> None:
        self._neighbours = neighbours
        self._table = neighbours.table
        self._validators = validators
        self._wire = wire
        self._config = config
        self._report = report
        self._density = Density()

    def session(self, *, keep: bool = False) -> Session:
        """The requests of one operation."""
        return Session(self._wire, keep=keep)

    async def run(
        self,
        key: bytes,
        kind: MessageType,
        session: Session,
        prepare: Callable[[Lookup], Take],
        settled: int | None = None,
    ) -> tuple[Lookup, LookupRequest | None]:
        """Look up ``key`` with requests of ``kind`` until it is over, the taker of replies has enough, or the query's
        time is up. Returns the look-up and the step whose reply ended it, if one did. On cancellation no request is
        left in flight."""
        started = trio.current_time()
        target = key_of(key)
        self._table.touch(target, started)
        seeds = self._table.closest(target, self._config.k)
        reach = self._table.reach()
        radius, outsiders = self._density.radius(reach), self._table.outsiders(seeds, OUTSIDERS)
        one_is_enough = kind is MessageType.GET_VALUE and self._validators.self_certifying(key)
        lookup = Lookup(
            target,
            seeds,
            self._config,
            own_key=self._table.own_key,
            radius=radius,
            settled=settled,
            outsiders=outsiders,
            handy=self._neighbours.connected_to if one_is_enough else None,
            reach=reach or 0,
        )
        take = prepare(lookup)
        request = encode_message(Message(kind, key))
        last: list[LookupRequest] = []

        def onward(nursery: trio.Nursery, again: Callable[..., Any]) -> LookupRequest | None:
            now = trio.current_time()
            step = lookup.next_request(now)
            while step is not None and (extra := lookup.next_request(now)) is not None:
                nursery.start_soon(again, extra, nursery, again)
            return step

        async def follow(step: LookupRequest | None, nursery: trio.Nursery, again: Callable[..., Any]) -> None:
            # One task asks one peer after another; only width beyond that costs another task. It is given itself: a
            # function that knows its own name is a cycle, with all that it knows, for the garbage collector.
            while step is not None:
                with trio.CancelScope() as scope:
                    while step is not None and not scope.cancel_called:  # it may expire as an answer comes
                        if await self._step(lookup, step, kind, request, session, take, scope):
                            last.append(step)
                            nursery.cancel_scope.cancel()
                            return
                        step = onward(nursery, again)
                if scope.cancelled_caught and step is not None:
                    self._unanswered(lookup, step, session.overdue(step.contact))
                    step = onward(nursery, again)

        with trio.move_on_after(self._config.query_s):
            async with trio.open_nursery() as nursery:
                while (first := lookup.next_request(trio.current_time())) is not None:
                    nursery.start_soon(follow, first, nursery, follow)
        return lookup, last[0] if last else None

    async def _step(
        self,
        lookup: Lookup,
        step: LookupRequest,
        kind: MessageType,
        request: bytes,
        session: Session,
        take: Take,
        scope: trio.CancelScope,
    ) -> bool:
        try:
            reply = await session.ask_within(scope, step.contact, kind, request)
        except (NoAnswer, BadMessage) as error:
            self._unanswered(lookup, step, error)
            return False
        self._neighbours.answered(step.contact)
        lookup.answered(step.contact, reply.closer)
        return take(step, reply)

    def _unanswered(self, lookup: Lookup, step: LookupRequest, error: NoAnswer | BadMessage) -> None:
        lookup.failed(step.contact)
        self._neighbours.failed(step.contact, refused=isinstance(error, NoAnswer) and error.refused)

    # --- the five operations ------------------------------------------------------------------------------------------

    async def find_node(
        self,
        key: bytes,
        session: Session,
        *,
        until: Callable[[LookupRequest, Message], bool] | None = None,
        settled: int | None = None,
    ) -> Lookup:
        """The peers nearest to ``key``. ``settled``: as :class:`Lookup` has it."""
        started = trio.current_time()
        take = until or (lambda _step, _reply: False)
        lookup, last = await self.run(key, MessageType.FIND_NODE, session, lambda _: take, settled)
        hops = lookup.hop_of(last.contact) if last else lookup.hops
        if settled is None and last is None and len(nearest := lookup.closest(self._config.k)) == self._config.k:
            self._density.note(nearest[-1].key ^ lookup.target)
        self._tell(MessageType.FIND_NODE, lookup, started, hops, found=hops > 0)
        return lookup

    async def get_value(
        self, key: bytes, own: bytes | None, quorum: int, now: Callable[[], float]
    ) -> tuple[bytes | None, list[Contact]]:
        """The best value under ``key``, and who holds a worse one. ``own`` is what we hold ourselves."""
        started = trio.current_time()
        hops = 0
        results: list[ValueQuorum] = []

        def prepare(lookup: Lookup) -> Take:
            values = ValueQuorum(key, self._validators, quorum, lookup.paths)
            results.append(values)
            if own is not None:
                values.add_own(own)

            def take(step: LookupRequest, reply: Message) -> bool:
                nonlocal hops
                if reply.record is None or reply.record.key != key:
                    return False
                try:
                    values.add(step.contact, step.path, reply.record.value, now())
                except InvalidRecord:
                    return False  # as good as no answer; a peer may hold what ended a moment ago
                hops = hops or lookup.hop_of(step.contact)
                return values.enough

            return take

        async with self.session() as session:
            lookup, _ = await self.run(key, MessageType.GET_VALUE, session, prepare)
        values = results[0]
        self._tell(MessageType.GET_VALUE, lookup, started, hops, found=values.best is not None)
        return values.best, values.stale()

    async def get_providers(
        self, key: bytes, known: Iterable[Contact], limit: int
    ) -> tuple[list[Contact], list[Contact]]:
        """Up to ``limit`` providers of ``key``, beginning with those ``known`` here; and whom a provider record under
        it is to be stored at, if the look-up went on to its end."""
        started = trio.current_time()
        hops = 0
        results: list[ProviderQuorum] = []

        def prepare(lookup: Lookup) -> Take:
            providers = ProviderQuorum(known, limit, lookup.paths)
            results.append(providers)

            def take(step: LookupRequest, reply: Message) -> bool:
                nonlocal hops
                if reply.providers:
                    providers.add(step.path, reply.providers)
                    hops = hops or lookup.hop_of(step.contact)
                return providers.enough

            return take

        async with self.session() as session:
            lookup, last = await self.run(key, MessageType.GET_PROVIDERS, session, prepare)
        found = results[0].result()
        self._tell(MessageType.GET_PROVIDERS, lookup, started, hops, found=bool(found))
        return found, lookup.holders() if last is None and lookup.idle else []

    async def find_holders(self, key: bytes, session: Session) -> list[Contact]:
        """Whom a record or provider record under ``key`` is to be stored at.

        Where others could replay an older value, everybody near is asked first, for liars among them to be outnumbered;
        a value that its key certifies can only be withheld, and one honest holder is enough to find it."""
        settled = SETTLED if self._validators.self_certifying(key) else None
        return (await self.find_node(key, session, settled=settled)).holders()

    async def store(self, peers: Iterable[Contact], message: Message, session: Session, *, more: bool = False) -> int:
        """Send PUT_VALUE or ADD_PROVIDER to ``peers``; how many took it (the latter: were told). ``more``: other
        messages to the same peers follow in this session."""
        encoded = encode_message(message)
        waiting = list(peers)
        waiting.reverse()
        taken = 0

        async def work() -> None:
            nonlocal taken
            while waiting:
                peer = waiting.pop()
                try:
                    if message.type is MessageType.ADD_PROVIDER:
                        await session.tell(peer, encoded)
                        taken += 1
                        continue
                    reply = await session.ask(peer, message.type, encoded, last=not more)
                except (NoAnswer, BadMessage):
                    continue  # a peer that refuses a record resets the stream, as all of libp2p does
                assert message.record is not None
                taken += reply.record is not None and reply.record.value == message.record.value

        with trio.move_on_after(self._config.query_s):
            async with trio.open_nursery() as nursery:
                for _ in range(min(STORE_WIDTH, len(waiting))):
                    nursery.start_soon(work)
        return taken

    def _tell(self, kind: MessageType, lookup: Lookup, started: float, hops: int, *, found: bool) -> None:
        took = trio.current_time() - started
        self._report(LookupReport(kind, hops, lookup.requests, lookup.failures, took, found))
