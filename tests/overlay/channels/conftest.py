"""A client and a provider with ledgers of their own, on a real devnet, talking through streams in memory."""

from __future__ import annotations

import itertools
import threading
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import pytest
import trio

from overlay.chain import Chain
from overlay.channels import Payee, PayeeDesk, PayerDesk
from overlay.events import EventLog
from overlay.settlement import Voucher, Wallet
from overlay.settlement.chain import TonClient, WalletAccount
from overlay.settlement.devnet import Devnet
from overlay.settlement.ledger import VoucherRecord, open_ledger
from overlay.settlement.limits import MIN_DEPOSIT_NANOTON
from transport.host.interface import StreamError
from transport.identity import Identity

TON = 1_000_000_000


class Net:
    """A devnet in a thread with a trio loop of its own; the tests move its clock."""

    def __init__(self):
        self.offset_s = 0.0
        self.seeds = (number.to_bytes(32, "big") for number in itertools.count(1))
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._main,), daemon=True)
        self._thread.start()
        assert self._ready.wait(60), "the devnet did not start: see the thread's exception above"

    def clock(self):
        return time.time() + self.offset_s

    async def _main(self):
        async with Devnet.serve(clock=self.clock, heartbeat_s=2.0) as self.devnet:
            self._token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
            self._ready.set()
            await self._stop.wait()

    async def call(self, function, *args):
        return await trio.to_thread.run_sync(partial(trio.from_thread.run, function, *args, trio_token=self._token))

    async def advance(self, seconds):
        self.offset_s += seconds
        await self.call(self.devnet.seal)

    def stop(self):
        self._token.run_sync_soon(self._stop.set)
        self._thread.join()


@pytest.fixture(scope="module")
def net():
    made = Net()
    yield made
    made.stop()


class Stream:
    """One end of a stream of messages; the peer's id is whoever is at the other end."""

    def __init__(self, peer_id, send, receive):
        self.peer_id, self._send, self._receive = peer_id, send, receive

    async def send(self, message):
        try:
            await self._send.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise StreamError("closed") from None

    async def receive(self, max_bytes):
        try:
            message = await self._receive.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise StreamError("closed") from None
        if len(message) > max_bytes:
            raise StreamError("too long")
        return message

    async def aclose(self):
        await self._send.aclose()
        await self._receive.aclose()

    reset = aclose


def pair(one, other):
    there, here = trio.open_memory_channel(8), trio.open_memory_channel(8)
    return Stream(other, there[0], here[1]), Stream(one, here[0], there[1])


@dataclass
class ClientHost:
    """Reaches one provider's desk; ``reachable`` may be switched off."""

    peer_id: str
    desk: PayeeDesk
    provider: str
    nursery: trio.Nursery
    reachable: bool = True
    opened: int = 0

    async def open_stream(self, peer, protocol, *, addrs=()):
        if not self.reachable or peer != self.provider:
            raise StreamError(f"{peer} does not answer")
        self.opened += 1
        ours, theirs = pair(self.peer_id, self.provider)
        self.nursery.start_soon(self.desk.handle, theirs)
        return ours


@dataclass
class Jobs:
    """What the provider's jobs know of channels: whether some run, and which deposits they were told of."""

    running: bool = False
    frozen: set = field(default_factory=set)
    deposits: dict = field(default_factory=dict)

    async def deposit_grew(self, channel, deposit_nanoton):
        self.deposits[channel] = deposit_nanoton

    async def freeze(self, channel):
        if not self.running:
            self.frozen.add(channel)
        return not self.running


@dataclass
class Pair:
    """The two of them. ``told`` are the events of both."""

    net: Net
    payer: PayerDesk
    payee: PayeeDesk
    host: ClientHost
    jobs: Jobs
    told: list
    client: Identity
    provider: Identity

    def clock(self):
        return self.net.clock()

    @property
    def whom(self):
        account = self.payee.chain.account
        return Payee(self.provider.peer_id, account.address, self.payee.chain.channel_key)

    async def open(self, spendable=1, **kwargs):
        return await self.payer.ensure(self.whom, spendable_nanoton=spendable, min_deposit_nanoton=1, **kwargs)

    async def promise(self, channel, amount, seq=1):
        """Both write down a voucher, as a job would leave it."""
        voucher = Voucher(channel, self.payer.chain.client.network_id, seq, amount)
        record = VoucherRecord(channel, seq, amount, voucher.sign(self.payer.chain.channel_seed))
        for desk in (self.payer, self.payee):
            await desk.ledger.run(lambda store: store.put_voucher(record))

    async def status(self, desk, channel):
        record = await desk.ledger.run(lambda store: store.channel(channel))
        return str(record.status)

    def kinds(self):
        return [event.kind for event in self.told]

    def new_payer(self):
        """The client's desk after a restart: the same ledger, nothing else remembered."""
        old = self.payer
        return PayerDesk(
            old.chain, old.ledger, old.host, old.subnet, old.log, old.clock, old.nonce, old.deposit_nanoton,
            old.lifetime_s, old.challenge_period_s,
        )  # fmt: skip


async def make_chain(net, client, money):
    account = WalletAccount(client, Wallet(next(net.seeds), client.network_id))
    if money:
        await net.call(net.devnet.fund, account.address, money)
    return Chain("devnet", net.devnet.global_config(), client, account, next(net.seeds))


@pytest.fixture
def fresh_chain(net):
    """Makes a wallet with money on the devnet: ``await fresh_chain(client, nanoton)``."""
    return partial(make_chain, net)


@pytest.fixture
def stream_pair():
    """Makes both ends of a stream between two peers."""
    return pair


@pytest.fixture
async def two(net, tmp_path):
    """A funded client and a funded provider, with no channel yet."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        client = await enter(TonClient.connect(net.devnet.global_config(), clock=net.clock))
        payer_chain, payee_chain = [await make_chain(net, client, 20 * TON) for _ in range(2)]
        ledgers = [await enter(open_ledger(tmp_path / f"{name}.sqlite3")) for name in ("payer", "payee")]
        nursery = await enter(trio.open_nursery())
        ours, theirs = Identity(next(net.seeds)), Identity(next(net.seeds))
        told, jobs = [], Jobs()
        log = EventLog(told.append, net.clock)
        payee = PayeeDesk(payee_chain, ledgers[1], jobs, log, net.clock, MIN_DEPOSIT_NANOTON, TON // 10)
        host = ClientHost(ours.peer_id, payee, theirs.peer_id, nursery)

        def nonce(below):
            return int.from_bytes(next(net.seeds)) % below

        payer = PayerDesk(
            payer_chain, ledgers[0], host, "main", log, net.clock, nonce, TON // 2, 7 * 86_400, 3600,
        )  # fmt: skip
        yield Pair(net, payer, payee, host, jobs, told, ours, theirs)
        nursery.cancel_scope.cancel()
