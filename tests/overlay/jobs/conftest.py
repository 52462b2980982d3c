"""Two parties with real keys, ledgers and machines, and between them memory streams or a real tunnel."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from compute.tasks import ChatRequest, Finished, Message, Sampling, Started, Task, TextDelta
from compute.usage import Prices, Unit, Usage
from overlay.jobs import AgreementBook, JobServer, load_payer_channel, open_job_client
from overlay.market.agreement import Agreement, AgreementBody, Tier, sign_agreement
from overlay.settlement.ledger import ChannelRecord, ChannelStatus, Role, open_ledger
from overlay.settlement.voucher import Voucher, channel_public_key
from transport.identity import Identity
from transport.tunnel import StreamReset, TunnelClosed

CHANNEL = "0:" + "ab" * 32
PAYEE_ADDRESS = "0:" + "cd" * 32
NETWORK = -3
SEED = bytes(range(32))
NOW_MS = 1_800_000_000_000
PRICES = Prices({Unit.PROMPT: 1_000_000, Unit.COMPLETION: 5_000_000, Unit.AUDIO_MS: 10_000})
"""1 nanoTON a prompt token, 5 a completion token."""


def voucher(seq: int, amount: int) -> Voucher:
    return Voucher(CHANNEL, NETWORK, seq, amount)


def sign_voucher(seq: int, amount: int) -> bytes:
    return voucher(seq, amount).sign(SEED)


def verify_voucher(seq: int, amount: int, signature: bytes) -> bool:
    return seq > 0 and amount > 0 and voucher(seq, amount).verify(channel_public_key(SEED), signature)


def make_agreement(client: Identity, provider: Identity, **changes: object) -> Agreement:
    fields: dict[str, object] = {
        "client": client.peer_id,
        "provider": provider.peer_id,
        "subnet": "main",
        "task": Task.CHAT,
        "model": "echo",
        "tier": Tier.PLAIN,
        "prices": PRICES,
        "credit_window_nanoton": 200,
        "max_amount_nanoton": 100_000,
        "min_deposit_nanoton": 0,
        "max_parallel": 64,
        "valid_from_ms": NOW_MS - 1000,
        "valid_until_ms": NOW_MS + 60_000,
        "payer_address": CHANNEL,
        "payer_key": channel_public_key(SEED),
        "payee_address": PAYEE_ADDRESS,
        "payee_key": bytes(32),
        "network_id": NETWORK,
        "quote": bytes(32),
    }
    body = AgreementBody(**{**fields, **changes})  # type: ignore[arg-type]  # field by field above
    return Agreement(body, sign_agreement(client, body), sign_agreement(provider, body))


def chat(text: str = "hello", max_tokens: int = 64) -> ChatRequest:
    return ChatRequest("echo", (Message("user", text),), Sampling(max_tokens=max_tokens))


class MemoryStream:
    """One end of a stream in memory, with the manners of a tunnel's stream."""

    def __init__(self) -> None:
        self.inbox: deque[bytes] = deque()
        self.ended = False
        self.dead: StreamReset | TunnelClosed | None = None
        self.news = trio.Event()
        self.peer: MemoryStream
        self.sends = 0
        self.stuck = False
        self.received = 0

    def _wake(self) -> None:
        self.news.set()
        self.news = trio.Event()

    async def send_messages(self, messages: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        while self.stuck and self.dead is None:
            await self.news.wait()
        if self.dead is not None:
            raise self.dead
        self.sends += 1
        self.peer.inbox.extend(bytes(message) for message in messages)
        self.peer.received += sum(map(len, messages))
        self.peer._wake()

    async def receive_messages(self, max_bytes: int) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        while not self.inbox:
            if self.dead is not None:
                raise self.dead
            if self.ended:
                return []
            await self.news.wait()
        messages = list(self.inbox)
        self.inbox.clear()
        assert max(map(len, messages)) <= max_bytes
        return messages

    def reset(self, code: int = 1, reason: str = "") -> None:
        for side in (self, self.peer):
            if side.dead is None and not (side.ended and side.peer.ended):
                side.dead = StreamReset(code, reason)
            side._wake()

    async def aclose(self) -> None:
        self.peer.ended = True
        self.peer._wake()
        await trio.lowlevel.checkpoint()


def stream_pair() -> tuple[MemoryStream, MemoryStream]:
    one, other = MemoryStream(), MemoryStream()
    one.peer, other.peer = other, one
    return one, other


class MemoryTunnel:
    """One end of a tunnel in memory."""

    def __init__(self, peer_id: str, handshake_hash: bytes) -> None:
        self.peer_id = peer_id
        self.handshake_hash = handshake_hash
        self.peer: MemoryTunnel
        self.streams: list[MemoryStream] = []
        self.closed: str | None = None
        self._send, self._receive = trio.open_memory_channel[MemoryStream](1000)

    async def open_stream(self) -> MemoryStream:
        await trio.lowlevel.checkpoint()
        if self.closed is not None:
            raise TunnelClosed(self.closed)
        mine, theirs = stream_pair()
        self.streams.append(mine)
        self.peer.streams.append(theirs)
        self.peer._send.send_nowait(theirs)
        return mine

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(bytes_received=sum(stream.received for stream in self.streams))

    async def accept(self) -> MemoryStream:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise TunnelClosed(self.closed or "") from None

    async def aclose(self, reason: str = "") -> None:
        self.cut(reason)
        await trio.lowlevel.checkpoint()

    def cut(self, reason: str) -> None:
        """What the network does when a process dies: both ends are gone at once, what has arrived can be read."""
        for side in (self, self.peer):
            if side.closed is None:
                side.closed = reason
                side._send.close()
                for stream in side.streams:
                    stream.dead = stream.dead or TunnelClosed(reason)
                    stream._wake()


def tunnel_pair(client: Identity, provider: Identity, number: int = 1) -> tuple[MemoryTunnel, MemoryTunnel]:
    handshake = bytes([number]) * 32
    near, far = MemoryTunnel(provider.peer_id, handshake), MemoryTunnel(client.peer_id, handshake)
    near.peer, far.peer = far, near
    return near, far


class EchoEngine:
    """Answers with as many one-token deltas as the request asks for; each waits for ``gate`` if there is one."""

    def __init__(self) -> None:
        self.gate: trio.MemoryReceiveChannel[int] | None = None
        self.fail_after: int | None = None
        self.batch = 1
        self.lie = 0
        self.delay_s = 0.0
        self.served = 0
        self.instant = False
        self.produced = 0

    @asynccontextmanager
    async def submit(self, request: ChatRequest) -> AsyncIterator[AsyncIterator[Sequence[object]]]:
        async with aclosing(self._run(request)) as batches:
            yield batches

    async def _run(self, request: ChatRequest) -> AsyncIterator[Sequence[object]]:
        prompt = sum(len(message.content.split()) for message in request.messages)
        if self.instant:
            count = request.sampling.max_tokens or 1
            text = [TextDelta(f" t{number}", Usage.of(Unit.COMPLETION, 1)) for number in range(count)]
            yield [Started(Usage.of(Unit.PROMPT, prompt)), *text, Finished("length")]
            return
        await trio.sleep(self.delay_s)
        yield [Started(Usage.of(Unit.PROMPT, prompt))]
        count = request.sampling.max_tokens or 1
        tokens = [TextDelta(f" t{number}", Usage.of(Unit.COMPLETION, 1 + self.lie)) for number in range(count)]
        for start in range(0, count, self.batch):
            if self.gate is not None:
                await self.gate.receive()
            if self.fail_after is not None and start >= self.fail_after:
                from compute.engines.base import EngineFailure

                raise EngineFailure("the device fell off the bus")
            self.produced += len(tokens[start : start + self.batch])
            yield tokens[start : start + self.batch]
        self.served += 1
        yield [Finished("length")]


@dataclass
class World:
    """A client and a provider, each with a ledger on the disk."""

    client: Identity
    provider: Identity
    client_ledger: object
    provider_ledger: object
    engine: EchoEngine
    server: JobServer
    book: AgreementBook
    nursery: trio.Nursery
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    tunnels: int = 0

    async def payer(self):  # type: ignore[no-untyped-def]
        return await load_payer_channel(
            self.client_ledger,  # type: ignore[arg-type]
            CHANNEL,
            identity=self.client,
            sign_voucher=sign_voucher,
            verify_voucher=verify_voucher,
        )

    def connect(self) -> tuple[MemoryTunnel, MemoryTunnel]:
        self.tunnels += 1
        near, far = tunnel_pair(self.client, self.provider, self.tunnels)
        self.nursery.start_soon(self.server.serve, far)
        return near, far

    def job_client(self, tunnel):  # type: ignore[no-untyped-def]
        return open_job_client(
            tunnel,
            identity=self.client,
            ledger=self.client_ledger,  # type: ignore[arg-type]
            book=self.book,
            now_s=lambda: NOW_MS // 1000,
            random_bytes=self.rng.randbytes,
        )

    def agreement(self, **changes: object) -> Agreement:
        return make_agreement(self.client, self.provider, **changes)


def channel_record(role: Role, peer: str, deposit: int = 1_000_000) -> ChannelRecord:
    return ChannelRecord(CHANNEL, role, peer, NETWORK, b"terms", deposit, ChannelStatus.OPEN, NOW_MS // 1000)


def make_server(world_engine: EchoEngine, provider: Identity, ledger: object, seed: int = 9) -> JobServer:
    return JobServer(
        identity=provider,
        ledger=ledger,  # type: ignore[arg-type]
        submit=world_engine.submit,  # type: ignore[arg-type]
        verifier=lambda record: verify_voucher,
        now_ms=lambda: NOW_MS,
        random_bytes=random.Random(seed).randbytes,
    )


@asynccontextmanager
async def open_world(tmp_path, *, deposit: int = 1_000_000) -> AsyncIterator[World]:  # type: ignore[no-untyped-def]
    client, provider = Identity(b"c" * 32), Identity(b"p" * 32)
    async with AsyncExitStack() as stack:
        client_ledger = await stack.enter_async_context(open_ledger(tmp_path / "client.db"))
        provider_ledger = await stack.enter_async_context(open_ledger(tmp_path / "provider.db"))
        if await client_ledger.run(lambda store: store.channel(CHANNEL)) is None:
            payer_side = channel_record(Role.PAYER, provider.peer_id, deposit)
            payee_side = channel_record(Role.PAYEE, client.peer_id, deposit)
            await client_ledger.run(lambda store: store.add_channel(payer_side))
            await provider_ledger.run(lambda store: store.add_channel(payee_side))
        engine = EchoEngine()
        server = make_server(engine, provider, provider_ledger)
        async with trio.open_nursery() as nursery:
            yield World(
                client, provider, client_ledger, provider_ledger, engine, server, AgreementBook(client_ledger), nursery
            )
            nursery.cancel_scope.cancel()


@pytest.fixture
def jumping_clock():  # type: ignore[no-untyped-def]
    """Jumps over waits, but not while the ledger's thread works: it takes real time."""
    return trio.testing.MockClock(autojump_threshold=0.2)


@pytest.fixture
async def world(tmp_path):  # type: ignore[no-untyped-def]
    async with open_world(tmp_path) as made:
        yield made


@pytest.fixture
def kit():  # type: ignore[no-untyped-def]
    """The helpers of this file, for tests that build their own parties."""
    import sys

    return sys.modules[__name__]
