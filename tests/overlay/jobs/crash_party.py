"""A client and a provider as processes that kill themselves with SIGKILL at a numbered write or send.

`python crash_party.py` is a nursery of processes: it imports everything once, then forks a party for each line of JSON
on its standard input, and tells of those that have ended. Written for `test_jobs_crash_kill.py`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from overlay.errors import CocoonError
from overlay.jobs import AgreementBook, load_payer_channel, open_job_client
from overlay.jobs import messages as m
from overlay.settlement.ledger import open_ledger
from transport.identity import Identity
from transport.tunnel import StaticKey, TunnelEndpoint, TunnelError, dial, open_tunnel_listener

CLIENT, PROVIDER = Identity(b"c" * 32), Identity(b"p" * 32)
WINDOW = 60


def load_kit() -> Any:
    """The helpers of this folder's conftest."""
    spec = importlib.util.spec_from_file_location("crash_kit", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["crash_kit"] = module
    spec.loader.exec_module(module)
    return module


kit = load_kit()


class Points:
    """Counts down to the end of this process, and notes what must outlive it."""

    def __init__(self, kill_at: int | None, log: str) -> None:
        self.left = kill_at
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def point(self, _name: str) -> None:
        if self.left is None:
            return
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def note(self, *words: object) -> None:
        os.write(self.log, (" ".join(map(str, words)) + "\n").encode())

    def note_message(self, message: m.Message, way: str) -> None:
        if isinstance(message, m.Events):
            self.note(way, sum(kit.PRICES.cost_nanoton(event.units) for event in message.events))
        if way == "sent" and isinstance(message, m.Pay | m.Hello | m.View) and message.voucher is not None:
            self.note("voucher", message.voucher.seq, message.voucher.amount_nanoton)
        if way == "sent" and isinstance(message, m.Ack):
            self.note("ack", message.seq)


class Stream:
    """A tunnel's stream with a point before and after each send."""

    def __init__(self, inner: Any, points: Points) -> None:
        self.inner, self.points = inner, points

    async def send_messages(self, messages: Sequence[bytes]) -> None:
        self.points.point("before")
        for data in messages:
            self.points.note_message(m.decode(data, max_bytes=1 << 20), "sent")
        await self.inner.send_messages(messages)
        self.points.point("after")

    async def receive_messages(self, max_bytes: int) -> list[bytes]:
        received: list[bytes] = await self.inner.receive_messages(max_bytes)
        for data in received:
            self.points.note_message(m.decode(data, max_bytes=1 << 20), "came")
        return received

    def reset(self, code: int = 1, reason: str = "") -> None:
        self.inner.reset(code, reason)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Tunnel:
    """A tunnel of such streams."""

    def __init__(self, inner: Any, points: Points) -> None:
        self.inner, self.points = inner, points
        self.peer_id, self.handshake_hash = inner.peer_id, inner.handshake_hash

    async def open_stream(self) -> Stream:
        return Stream(await self.inner.open_stream(), self.points)

    def stats(self) -> Any:
        return self.inner.stats()

    async def accept(self) -> Stream:
        return Stream(await self.inner.accept(), self.points)

    async def aclose(self, reason: str = "") -> None:
        await self.inner.aclose(reason)


def endpoint(identity: Identity) -> TunnelEndpoint:
    return TunnelEndpoint(identity, StaticKey.from_seed(identity.seed))


async def provide(spec: dict[str, Any], points: Points) -> None:
    """Serve until the parent says to stop."""
    engine = kit.EchoEngine()
    engine.batch = 4
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with open_ledger(spec["ledger"], fault=points.point) as ledger:
            server = kit.make_server(engine, PROVIDER, ledger, os.getpid())

            async def serve(tunnel: Any) -> None:
                await server.serve(Tunnel(tunnel, points))

            async with open_tunnel_listener(endpoint(PROVIDER), "127.0.0.1", spec["port"], serve):
                async for _ in signals:
                    return


async def buy(spec: dict[str, Any], points: Points) -> None:
    """Two jobs at once, one left early, one more; again and again until all has gone well once."""
    rng = random.Random(os.getpid())
    agreement = kit.make_agreement(CLIENT, PROVIDER, credit_window_nanoton=WINDOW)
    async with open_ledger(spec["ledger"], fault=points.point) as ledger:
        book = AgreementBook(ledger)
        payer = await load_payer_channel(
            ledger, kit.CHANNEL, identity=CLIENT, sign_voucher=kit.sign_voucher, verify_voucher=kit.verify_voucher
        )
        key = StaticKey.from_seed(PROVIDER.seed).public
        while True:
            try:
                addr = f"/ip4/127.0.0.1/tcp/{spec['port']}"
                async with await dial(endpoint(CLIENT), addr, PROVIDER.peer_id, static_key=key) as tunnel:
                    async with open_job_client(
                        Tunnel(tunnel, points), identity=CLIENT, ledger=ledger, book=book, now_s=lambda: 0,
                        random_bytes=rng.randbytes,
                    ) as client:  # fmt: skip
                        channel = await client.attach(payer)
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(whole, client, agreement, channel, 18)
                            nursery.start_soon(whole, client, agreement, channel, 7)
                        async with client.run(agreement, channel, kit.chat("left early", 64)) as run:
                            async for _ in run:
                                break
                        await whole(client, agreement, channel, 5)
                        await channel.settled()
                        if channel.broken is None:
                            return
            except* (CocoonError, TunnelError, OSError):
                await trio.sleep(0.02)


async def whole(client: Any, agreement: Any, channel: Any, tokens: int) -> None:
    async with client.run(agreement, channel, kit.chat("some words", tokens)) as run:
        async for _ in run:
            pass


def party(spec: dict[str, Any]) -> None:
    points = Points(spec["kill_at"], spec["log"])
    trio.run(provide if spec["role"] == "provider" else buy, spec, points)


def main() -> None:
    """Lines in: `{"role", "ledger", "log", "port", "kill_at"}` forks, an empty line asks who has ended. One line out
    for each: the new process's id, or a list of [id, exit status]."""
    for line in sys.stdin:
        if line.strip():
            sys.stdout.flush()
            pid = os.fork()
            if pid == 0:
                status = 1
                with suppress(BaseException):
                    try:
                        party(json.loads(line))
                        status = 0
                    except BaseException:
                        sys.excepthook(*sys.exc_info())
                        sys.stderr.flush()
                os._exit(status)
            print(pid, flush=True)
        else:
            ended = []
            with suppress(ChildProcessError):
                while (found := os.waitpid(-1, os.WNOHANG))[0]:
                    ended.append([found[0], os.waitstatus_to_exitcode(found[1])])
            print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
