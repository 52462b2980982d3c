"""A crash at every write and every send: of the client, of the provider, with the disk's last write whole or torn.

A few short acts make every message of the protocol and every write of the ledger that belongs to it. Each runs once in
seeded virtual time to number its *points*: the begin, the end and the commit of each transaction, and the moments
before and after each send. Then it runs again for each point, and there one side dies: its ledger file is copied as it
lies at that instant, its tunnel is cut, and nothing that it does later counts. A new process of that side opens the
copy, meets the other again, does another job, and settles. `test_jobs_crash_kill.py` does the same to real processes.

A write or a send without a point cannot hide: SQLite's own trace is compared with the points, and every kind of message
and every writing method of the store must have occurred.
"""

from __future__ import annotations

import inspect
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import trio

from compute.tasks import TextDelta
from compute.usage import Unit, Usage
from overlay.errors import CocoonError
from overlay.jobs import AgreementBook, JobServer, Overcharged, load_payer_channel, open_job_client
from overlay.jobs import messages as m
from overlay.jobs.limits import WRITTEN_OFF_PAID_DIVISOR
from overlay.settlement.ledger import ChannelStatus, Role, Store, open_ledger
from simulations.determinism import run_seeded
from transport.identity import Identity
from transport.tunnel import TunnelClosed

WINDOW = 60
CLIENT, PROVIDER = Identity(b"c" * 32), Identity(b"p" * 32)
SIDES = ("client", "provider")
WRITERS = sorted(
    name
    for name, method in inspect.getmembers(Store, inspect.isfunction)
    if not name.startswith("_") and "self._write(" in inspect.getsource(method)
)
"""Every method of the store that changes the file."""

ELSEWHERE = {"add_channel", "set_deposit", "set_paid", "drop_agreements", "prune_receipts", "release_all"}
"""Those that jobs do not call: a channel's life is overlay.channels', forgetting is overlay.node's, and reservations
are released as a ledger opens."""


@dataclass
class Crash:
    """When somebody dies: at each point of the run that ``at`` numbers. ``torn`` leaves half of what the disk was
    writing then."""

    at: tuple[int, ...] = ()
    torn: bool = False
    trace: list[str] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    dead: str | None = None
    """Who is to be revived."""

    def reached(self, side: str, label: str) -> bool:
        """Count a point; whether the side dies there."""
        self.trace.append(f"{side}: {label}")
        return self.dead is None and len(self.trace) - 1 in self.at


class Wire:
    """What both sides said, and what each could see of the work; judged while it happens."""

    def __init__(self) -> None:
        self.sent_nanoton = 0
        self.came_nanoton = 0
        self.kinds: set[str] = set()
        self.writers: set[str] = set()
        self.vouchers: dict[int, int] = {}
        self.acknowledged = 0

    def said(self, message: m.Message) -> None:
        self.kinds.add(type(message).__name__)
        if isinstance(message, m.Pay | m.Hello | m.View) and message.voucher is not None:
            voucher = message.voucher
            known = self.vouchers.setdefault(voucher.seq, voucher.amount_nanoton)
            assert known == voucher.amount_nanoton, "one number, two sums"
        if isinstance(message, m.Ack):
            self.acknowledged = max(self.acknowledged, message.seq)


class Side:
    """One life of one party: its ledger file, its tunnels, and whether it still lives."""

    def __init__(self, name: str, path: Path, crash: Crash, wire: Wire, kit: ModuleType) -> None:
        self.name = name
        self.path = path
        self.wal = Path(f"{path}-wal")
        self.alive = True
        self.scopes: list[trio.CancelScope] = []
        self.tunnels: list[Any] = []
        self.crash = crash
        self.wire = wire
        self.kit = kit
        self.synced = 0
        self.reader: sqlite3.Connection | None = None
        self.sql: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def fault(self, name: str) -> None:
        """The ledger's points."""
        self.faults[name] += 1
        written = self.wal.stat().st_size if name == "committed" else self.synced
        if self.alive and self.crash.reached(self.name, name):
            # Torn: the power goes while the disk takes this commit, of which nobody has heard yet.
            self.die(self.synced + (written - self.synced) // 2 if self.crash.torn else None)
        if name == "committed":
            self.synced = written

    def point(self, label: str) -> None:
        """A send's points."""
        if self.alive and self.crash.reached(self.name, label):
            self.die(None)

    def die(self, wal_bytes: int | None) -> None:
        self.crash.died.append(self.name)
        self.crash.dead = self.name
        self.alive = False
        after = self.path.with_name("after-" + self.path.name)
        shutil.copyfile(self.path, after)
        if self.wal.exists():
            Path(f"{after}-wal").write_bytes(self.wal.read_bytes()[:wal_bytes])
        for tunnel in self.tunnels:
            tunnel.cut("the process is gone")
        for scope in self.scopes:
            scope.cancel()

    def mortal(self) -> trio.CancelScope:
        """What runs inside ends when this side dies."""
        self.scopes.append(trio.CancelScope())
        if not self.alive:
            self.scopes[-1].cancel()
        return self.scopes[-1]

    def on_disk(self) -> tuple[int, int]:
        """The voucher's number and the signed index in the file, read as another process would."""
        if self.reader is None:
            self.reader = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        (seq,) = self.reader.execute("SELECT coalesce(max(seq), 0) FROM vouchers").fetchone()
        (index,) = self.reader.execute(
            "SELECT coalesce(max(idx), 0) FROM receipts WHERE client_signature IS NOT NULL"
        ).fetchone()
        return seq, index

    def watch(self, store: Store) -> None:
        """Have SQLite itself tell of what it executes."""

        def tell(sql: str) -> None:
            word = sql.split(None, 1)[0].upper()
            inside = store._db.in_transaction
            if word in ("INSERT", "UPDATE", "DELETE", "REPLACE"):
                assert inside, f"a write outside of any transaction, at no point: {sql}"
            self.sql[word] += 1

        # What the disk loses in a power cut is cut off by hand here (`torn`); waiting for it only takes time.
        store._db.execute("PRAGMA synchronous = OFF")
        self.faults.clear()  # opening has had its own
        store._db.set_trace_callback(tell)
        for name in WRITERS:
            setattr(store, name, self.counting(name, getattr(store, name)))

    def counting(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.wire.writers.add(name)
            return method(*args, **kwargs)

        return counted


class Stream:
    """A stream whose sends are points."""

    def __init__(self, inner: Any, side: Side) -> None:
        self.inner = inner
        self.side = side

    async def send_messages(self, messages: Sequence[bytes]) -> None:
        side, wire, kit = self.side, self.side.wire, self.side.kit
        known = [m.decode(data, max_bytes=1 << 20) for data in messages]
        label = "+".join(type(message).__name__ for message in known)
        side.point(f"before {label}")
        if not side.alive:
            raise TunnelClosed("this process is gone")
        seq, index = (
            side.on_disk() if any(isinstance(message, m.Pay | m.Hello | m.Ack) for message in known) else (0, 0)
        )
        for message in known:
            # What a message promises is on the disk of whoever sends it.
            if isinstance(message, m.Pay | m.Hello) and message.voucher is not None:
                assert message.voucher.seq <= seq
            if isinstance(message, m.Pay):
                assert message.signed_index <= index
            if isinstance(message, m.Ack):
                assert (message.seq, message.signed_index) <= (seq, index)
            wire.said(message)
            wire.sent_nanoton += cost(message, kit)
        await self.inner.send_messages(messages)
        side.point(f"after {label}")

    async def receive_messages(self, max_bytes: int) -> list[bytes]:
        received: list[bytes] = await self.inner.receive_messages(max_bytes)
        if not self.side.alive:
            raise TunnelClosed("this process is gone")
        for data in received:
            self.side.wire.came_nanoton += cost(m.decode(data, max_bytes=1 << 20), self.side.kit)
        return received

    def reset(self, code: int = 1, reason: str = "") -> None:
        self.inner.reset(code, reason)

    async def aclose(self) -> None:
        await self.inner.aclose()


def cost(message: m.Message, kit: ModuleType) -> int:
    if not isinstance(message, m.Events):
        return 0
    # A text is one token here, whatever a dishonest provider says.
    return sum(
        kit.PRICES.cost_nanoton(Usage.of(Unit.COMPLETION, 1) if isinstance(event, TextDelta) else event.units)
        for event in message.events
    )


class Tunnel:
    """A tunnel of such streams."""

    def __init__(self, inner: Any, side: Side) -> None:
        self.inner = inner
        self.side = side
        self.peer_id, self.handshake_hash = inner.peer_id, inner.handshake_hash
        side.tunnels.append(inner)

    async def open_stream(self) -> Stream:
        return Stream(await self.inner.open_stream(), self.side)

    def stats(self) -> Any:
        return self.inner.stats()

    async def accept(self) -> Stream:
        return Stream(await self.inner.accept(), self.side)

    async def aclose(self, reason: str = "") -> None:
        await self.inner.aclose(reason)


class Client:
    """One life of the client."""

    def __init__(self, side: Side, kit: ModuleType, rng: random.Random) -> None:
        self.side, self.kit, self.rng = side, kit, rng
        self.payer: Any = None
        self.ledger: Any = None
        self.book: Any = None

    async def open(self, stack: AsyncExitStack) -> None:
        self.ledger = await stack.enter_async_context(open_ledger(self.side.path, fault=self.side.fault, inline=True))
        self.side.watch(self.ledger._store)
        self.book = AgreementBook(self.ledger)

    def job_client(self, tunnel: Tunnel) -> Any:
        return open_job_client(
            tunnel,
            identity=CLIENT,
            ledger=self.ledger,
            book=self.book,
            now_s=lambda: 0,
            random_bytes=self.rng.randbytes,
        )

    async def attach(self, client: Any) -> Any:
        if self.payer is None:
            kit = self.kit
            self.payer = await load_payer_channel(
                self.ledger, kit.CHANNEL, identity=CLIENT, sign_voucher=kit.sign_voucher,
                verify_voucher=kit.verify_voucher,
            )  # fmt: skip
        return await client.attach(self.payer)


class Provider:
    """One life of the provider."""

    def __init__(self, side: Side, kit: ModuleType, seed: int) -> None:
        self.side, self.kit, self.seed = side, kit, seed
        self.engine = kit.EchoEngine()
        self.engine.delay_s = 0.1  # long enough for the acceptance to go ahead
        self.engine.batch = 6
        self.server: JobServer
        self.ledger: Any = None

    async def open(self, stack: AsyncExitStack) -> None:
        self.ledger = await stack.enter_async_context(open_ledger(self.side.path, fault=self.side.fault, inline=True))
        self.side.watch(self.ledger._store)
        self.server = self.kit.make_server(self.engine, PROVIDER, self.ledger, self.seed)


class Play:
    """Both parties through the script and, if one dies, through what follows."""

    def __init__(self, kit: ModuleType, folder: Path, crash: Crash) -> None:
        self.kit, self.crash = kit, crash
        self.wire = Wire()
        self.rng = random.Random(5)
        self.tunnels = 0
        self.sides = {name: Side(name, folder / f"{name}.db", crash, self.wire, kit) for name in SIDES}
        self.client = Client(self.sides["client"], kit, self.rng)
        self.provider = Provider(self.sides["provider"], kit, 9)
        self.nursery: trio.Nursery

    def connect(self) -> Tunnel:
        self.tunnels += 1
        near, far = self.kit.tunnel_pair(CLIENT, PROVIDER, self.tunnels)
        provider = self.provider
        tunnel = Tunnel(far, provider.side)

        async def serve() -> None:
            with provider.side.mortal():
                await provider.server.serve(tunnel)

        self.nursery.start_soon(serve)
        return Tunnel(near, self.client.side)

    async def run(self, script: Callable[[Play], Awaitable[None]]) -> None:
        async with AsyncExitStack() as stack:
            await self.client.open(stack)
            await self.provider.open(stack)
            async with trio.open_nursery() as self.nursery, AsyncExitStack() as second_life:
                await self.mortal(script)
                while self.crash.dead is not None:
                    await self.revive(self.crash.dead, second_life)
                    await self.mortal(again)
                await self.client.ledger.flush()
                await self.provider.ledger.flush()
                self.nursery.cancel_scope.cancel()

    async def mortal(self, script: Callable[[Play], Awaitable[None]]) -> None:
        """Run a script at the client until it ends, the client dies, or its provider is gone."""
        with self.client.side.mortal():
            try:
                await script(self)
            except* CocoonError:
                if not self.crash.died:
                    raise

    async def revive(self, name: str, stack: AsyncExitStack) -> None:
        """A new process on what the dead one left."""
        self.crash.dead = None
        await trio.sleep(1)  # the survivor notices
        old = self.sides[name]
        side = self.sides[name] = Side(
            name, old.path.with_name("after-" + old.path.name), self.crash, self.wire, self.kit
        )
        if name == "client":
            self.client = Client(side, self.kit, self.rng)
            await self.client.open(stack)
        else:
            self.provider = Provider(side, self.kit, 10)
            await self.provider.open(stack)

    def check(self, *, settled: bool) -> None:
        """Nobody lost more than a window, and nothing paid is forgotten; when all was settled, both books say the same,
        to the last receipt and its signatures."""
        kit, wire, ends = self.kit, self.wire, []
        # A provider that dies forgets what it had served beyond the last receipt, so each crash may cost it a window.
        windows = max(1, len(self.crash.died))
        for side in self.sides.values():
            assert side.sql["BEGIN"] == side.faults["begin"], "a transaction that began at no point"
            assert side.sql["COMMIT"] == side.faults["written"] == side.faults["committed"]
            store = Store(side.path)
            head, voucher = store.head(kit.CHANNEL), store.voucher(kit.CHANNEL)
            seq, amount = (0, 0) if voucher is None else (voucher.seq, voucher.amount_nanoton)
            ends.append((head, voucher))
            assert store.reservations(kit.CHANNEL) == []
            assert amount <= wire.came_nanoton, "the client paid for what never came"
            lost = wire.sent_nanoton - amount
            # An act may break a stream or a tunnel besides: of what honest clients cost so, a share is forgiven.
            assert lost <= windows * WINDOW + amount // WRITTEN_OFF_PAID_DIVISOR, "the provider lost more than a window"
            assert seq >= wire.acknowledged, "what was acknowledged is on both disks"
            if side.name == "client" and "Dispute" in wire.kinds:
                assert store.channel(kit.CHANNEL).status is ChannelStatus.DISPUTED, "said, and not remembered"
            if settled:
                assert store.signed_index(kit.CHANNEL) == head.index
                assert kit.verify_voucher(seq, amount, voucher.signature)
                assert head.cumulative_nanoton == amount
                assert seq == max(wire.vouchers), "the last voucher is the highest that was ever sent"
            store.close()
        assert ends[0] == ends[1] or not settled


Act = Callable[["Play", Any, Any, Tunnel], Awaitable[None]]
Script = Callable[["Play"], Awaitable[None]]


async def two_at_once(play: Play, client: Any, channel: Any, _tunnel: Tunnel) -> None:
    """Two jobs, the first of an agreement that the provider does not know, and longer than a credit window."""
    agreement = kit_agreement(play.kit)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(whole, client, agreement, channel, play.kit.chat("one two", 18))
        nursery.start_soon(whole, client, agreement, channel, play.kit.chat("three", 3))
    await channel.settled()


async def left_early(play: Play, client: Any, channel: Any, _tunnel: Tunnel) -> None:
    """The user goes away, and the client cancels the job."""
    async with client.run(kit_agreement(play.kit), channel, play.kit.chat("left early", 64)) as run:
        await some(run)
    await channel.settled()


async def broken_stream(play: Play, client: Any, channel: Any, _tunnel: Tunnel) -> None:
    """A job's stream breaks while the tunnel lives, and the client claims what came."""
    with suppress(CocoonError):
        async with client.run(kit_agreement(play.kit), channel, play.kit.chat("reset", 64)) as run:
            await some(run)
            run._stream.inner.reset()
            await some(run)
    await channel.settled()


async def broken_tunnel(play: Play, client: Any, channel: Any, tunnel: Tunnel) -> None:
    """The tunnel breaks in the middle of a job."""
    with suppress(CocoonError):
        async with client.run(kit_agreement(play.kit), channel, play.kit.chat("cut", 64)) as run:
            await some(run)
            tunnel.inner.cut("a cable was pulled")
            await some(run)


async def cheated(play: Play, client: Any, channel: Any, _tunnel: Tunnel) -> None:
    """A job that is refused, and one for which the provider counts more than it delivers."""
    with suppress(CocoonError):
        await whole(client, kit_agreement(play.kit, model="other"), channel, play.kit.chat("no such model", 5))
    play.provider.engine.lie = 400
    with suppress(Overcharged):
        await whole(client, kit_agreement(play.kit), channel, play.kit.chat("dishonest", 1000))
    await trio.sleep(1)


def script(*acts: Act) -> Script:
    """The acts on one tunnel, and on a new one what is needed after its end."""

    async def run(play: Play) -> None:
        tunnel = play.connect()
        async with play.client.job_client(tunnel) as client:
            channel = await play.client.attach(client)
            for act in acts:
                await act(play, client, channel, tunnel)
        if tunnel.inner.closed is not None and not play.crash.died:
            await again(play)

    return run


HONEST = (two_at_once, left_early, broken_stream, broken_tunnel)


async def again(play: Play) -> None:
    """A new tunnel: the books are compared, one more job is done, and all is settled."""
    play.provider.engine.lie = 0
    kit, agreement = play.kit, kit_agreement(play.kit)
    async with play.client.job_client(play.connect()) as client:
        channel = await play.client.attach(client)
        await whole(client, agreement, channel, kit.chat("more", 4))
        with trio.fail_after(60):
            await channel.settled()


async def some(run: Any) -> None:
    """Take a few tokens."""
    enough = run.usage.get(Unit.COMPLETION) + 3
    async for _ in run:
        if run.usage.get(Unit.COMPLETION) >= enough:
            break


async def whole(client: Any, agreement: Any, channel: Any, request: Any) -> None:
    async with client.run(agreement, channel, request) as run:
        async for _ in run:
            pass


def kit_agreement(kit: ModuleType, **changes: Any) -> Any:
    return kit.make_agreement(CLIENT, PROVIDER, credit_window_nanoton=WINDOW, **changes)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to hold the two fresh ledgers that every run begins with."""
    return tmp_path_factory.mktemp("template")


@pytest.fixture
def fresh(template: Path, tmp_path: Path, kit: ModuleType) -> Callable[[], Path]:
    for name, role, peer in (("client", Role.PAYER, PROVIDER), ("provider", Role.PAYEE, CLIENT)):
        path = template / f"{name}.db"
        if not path.exists():
            store = Store(path)
            with store.transaction():
                store.add_channel(kit.channel_record(role, peer.peer_id))
            store.close()
    runs = iter(range(10**6))

    def folder() -> Path:
        made = tmp_path / str(next(runs))
        made.mkdir()
        for side in SIDES:
            shutil.copyfile(template / f"{side}.db", made / f"{side}.db")
        return made

    return folder


def play(kit: ModuleType, folder: Path, crash: Crash, acts: Sequence[Act], seed: int = 1) -> Play:
    made = Play(kit, folder, crash)
    run_seeded(seed, made.run, script(*acts))
    made.check(settled=cheated not in acts)
    shutil.rmtree(folder)
    return made


def crashes(whole_run: Play, *, quick: bool) -> list[Crash]:
    """One for each point of a run, and one more for each commit that the disk may take by half. At the begin of a
    transaction the file is as at its end, before the commit, and nothing happens between: ``quick`` leaves it out."""
    trace = whole_run.crash.trace
    torn = [Crash((at,), torn=True) for at, label in enumerate(trace) if label.endswith("committed")]
    return [Crash((at,)) for at, label in enumerate(trace) if not (quick and label.endswith("begin"))] + torn


def sweep(
    kit: ModuleType, fresh: Callable[[], Path], acts: Sequence[Act], seed: int, *, quick: bool = False
) -> tuple[set[str], set[str]]:
    """Crash at each point of ``acts``; returns the kinds of messages and the writers that occurred."""
    whole_run = play(kit, fresh(), Crash(), acts, seed)
    kinds, writers = set(whole_run.wire.kinds), set(whole_run.wire.writers)
    for crash in crashes(whole_run, quick=quick):
        (at,) = crash.at
        where = f"{acts[0].__name__}, seed {seed}, point {at} ({whole_run.crash.trace[at]}, torn: {crash.torn})"
        try:
            made = play(kit, fresh(), crash, acts, seed)
        except BaseException as error:
            error.add_note(f"crashed at {where}")
            raise
        assert made.crash.trace[: at + 1] == whole_run.crash.trace[: at + 1], f"another run, so not {where}"
        assert made.crash.died == [whole_run.crash.trace[at].partition(":")[0]]
        kinds |= made.wire.kinds
        writers |= made.wire.writers
    return kinds, writers


def test_a_crash_at_any_write_or_send_costs_nobody_more_than_a_credit_window(fresh, kit):
    kinds, writers = set(), set()
    for act in (*HONEST, cheated):
        more_kinds, more_writers = sweep(kit, fresh, [act], 1, quick=True)
        kinds |= more_kinds
        writers |= more_writers
    assert kinds == {kind.__name__ for kind in get_args(m.Message)}, "a message that no crash was tried at"
    assert writers == set(WRITERS) - ELSEWHERE, "a write that no crash was tried at"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_when_all_acts_are_played_in_a_row_and_in_other_orders_of_events(fresh, kit, seed):
    sweep(kit, fresh, HONEST, seed)
    sweep(kit, fresh, (two_at_once, cheated), seed)


@pytest.mark.slow
def test_a_second_crash_while_the_first_is_mended_changes_nothing(fresh, kit):
    points = len(play(kit, fresh(), Crash(), HONEST).crash.trace)
    rng = random.Random(11)
    for _ in range(300):
        first = rng.randrange(points)
        crash = Crash((first, first + rng.randrange(1, 80)))
        try:
            play(kit, fresh(), crash, HONEST)
        except BaseException as error:
            error.add_note(f"crashed at {crash.at}")
            raise
