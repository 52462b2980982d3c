"""What vanishing costs the other side: real sessions over a real tunnel, ended at a random moment, the loss read off.

Each round has a channel of its own, a job that streams tokens, and one party that goes away in the middle of it:

- a client that pays as it should and vanishes after a random number of tokens;
- a client that never pays, takes all that it is given, and vanishes when the provider stops;
- a provider that vanishes after a random number of tokens.

A provider's loss is what it sent beyond the highest voucher on its disk; a client's is what it promised beyond what had
arrived. Both are in credit windows, and so is the most that either could have lost at any moment of the round, which is
sampled with every token.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from compute.tasks import ChatRequest, Event, Message, Request, Sampling, Started, Task, TextDelta
from compute.usage import Prices, Unit, Usage
from overlay.errors import CocoonError
from overlay.jobs import AgreementBook, JobServer, PayerChannel, load_payer_channel, open_job_client
from overlay.market import Agreement, AgreementBody, Tier, sign_agreement
from overlay.settlement import Voucher, channel_public_key
from overlay.settlement.ledger import ChannelRecord, ChannelStatus, GroupCommit, Role, Store, open_ledger
from simulations.bench.report import Row
from transport.identity import Identity
from transport.tunnel import StaticKey, Tunnel, TunnelEndpoint, dial, open_tunnel_listener

WINDOW_NANOTON = 2_000_000
TOKEN_NANOTON = 70_000
"""A window is 28 tokens and a half, so that it is never filled exactly."""

THIEF_S = 0.5
"""How long the thief waits: the window is full after some milliseconds, and nothing comes any more."""

ROUND_S = 30.0
"""A round of the others takes some tenths of a second."""

TOKENS = 400
_NETWORK, _NOW_MS, _DEPOSIT = -667, 1_800_000_000_000, 1_000_000_000
_SEED = bytes(range(32))
_PRICES = Prices({Unit.PROMPT: 1_000_000, Unit.COMPLETION: TOKEN_NANOTON * 1_000_000})
_CLIENT, _PROVIDER = Identity(b"bench client".ljust(32)), Identity(b"bench provider".ljust(32))
CASES = ("client", "thief", "provider")


async def risk_rows(quick: bool) -> dict[str, Row]:
    """Both rows, by name."""
    rng = random.Random(1)
    found: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory(prefix="cocoon-bench-") as name:
        async with _Stage.open(Path(name), 8 if quick else 24) as stage:
            for number in range(stage.rounds):
                for case in CASES:
                    found[case].append(await stage.round(case, f"0:{stage.channel(number, case):064x}", rng))
    provider = [loss for case in ("client", "thief") for loss, _ in found[case]]
    provider_most = max(most for case in ("client", "thief") for _, most in found[case])
    client = [loss for loss, _ in found["provider"]]
    client_most = max(most for _, most in found["provider"])
    return {
        "provider_loss": _row("provider_loss", "lost by a provider to a vanished client", provider, provider_most),
        "client_loss": _row("client_loss", "lost by a client to a vanished provider", client, client_most),
    }


def _row(name: str, measure: str, losses: Sequence[float], most: float) -> Row:
    worst = round(max(*losses, most), 4)
    return Row(
        name, f"{measure}, the most of {len(losses)} times", worst, "credit windows", "≤ 1", worst <= 1,
        [round(loss, 4) for loss in losses], {"most_at_any_moment": round(most, 4)},
    )  # fmt: skip


@asynccontextmanager
async def _submit(_request: Request) -> AsyncIterator[AsyncIterator[Sequence[Event]]]:
    async with aclosing(_tokens()) as batches:
        yield batches


async def _tokens() -> AsyncGenerator[Sequence[Event], None]:
    yield [Started(Usage.of(Unit.PROMPT, 3))]
    for number in range(TOKENS):
        await trio.lowlevel.checkpoint()
        yield [TextDelta(f"w{number} ", Usage.of(Unit.COMPLETION, 1))]


class _Stage:
    """A client and a provider, each with a ledger, and a listener between them."""

    def __init__(self, client: GroupCommit, provider: GroupCommit, rounds: int) -> None:
        self.rounds = rounds
        self._client, self._provider = client, provider
        self._book = AgreementBook(client)
        self._far: list[Tunnel] = []
        self.addr = ""
        self.server = JobServer(
            identity=_PROVIDER, ledger=provider, submit=_submit, verifier=_verifier, now_ms=lambda: _NOW_MS,
            random_bytes=random.Random(2).randbytes,
        )  # fmt: skip

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path, rounds: int) -> AsyncIterator[_Stage]:
        """Both ledgers with a channel for each round, and the listener."""
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(open_ledger(folder / "client"))
            provider = await stack.enter_async_context(open_ledger(folder / "provider"))
            stage = cls(client, provider, rounds)
            for ledger, role, peer in ((client, Role.PAYER, _PROVIDER), (provider, Role.PAYEE, _CLIENT)):
                await ledger.run(lambda store, role=role, peer=peer: stage._add_channels(store, role, peer))  # type: ignore[misc]  # binds now
            listener = await stack.enter_async_context(
                open_tunnel_listener(_endpoint(_PROVIDER), "127.0.0.1", 0, stage._serve)
            )
            stage.addr = listener.addrs[0]
            yield stage

    def channel(self, number: int, case: str) -> int:
        """A number for the channel of a round."""
        return 1 + number * len(CASES) + CASES.index(case)

    def _add_channels(self, store: Store, role: Role, peer: Identity) -> None:
        for number in range(self.rounds):
            for case in CASES:
                name = f"0:{self.channel(number, case):064x}"
                store.add_channel(
                    ChannelRecord(name, role, peer.peer_id, _NETWORK, b"", _DEPOSIT, ChannelStatus.OPEN, 0)
                )

    async def _serve(self, tunnel: Tunnel) -> None:
        self._far.append(tunnel)
        await self.server.serve(tunnel)

    async def round(self, case: str, name: str, rng: random.Random) -> tuple[float, float]:
        """One job that ends with ``case`` going away; returns the other's loss, and the most it could have been."""
        at = rng.randrange(1, TOKENS - 50)
        payer = await load_payer_channel(
            self._client, name, identity=_CLIENT,
            sign_voucher=lambda seq, amount: Voucher(name, _NETWORK, seq, amount).sign(_SEED),
            verify_voucher=_verifier_of(name),
        )  # fmt: skip
        if case == "thief":
            payer.payment = lambda: None  # type: ignore[method-assign]  # a client that was made to cheat
        agreement = _agreement()
        most = 0
        key = StaticKey.from_seed(_PROVIDER.seed).public
        async with (
            await dial(_endpoint(_CLIENT), self.addr, _PROVIDER.peer_id, static_key=key) as near,
            open_job_client(
                near, identity=_CLIENT, ledger=self._client, book=self._book, now_s=lambda: 0,
                random_bytes=rng.randbytes,
            ) as client,
        ):  # fmt: skip
            channel = await client.attach(payer)
            request = ChatRequest("m", [Message("user", "a few words here")], Sampling(max_tokens=TOKENS))
            run = client.run(agreement, channel, request)
            with trio.move_on_after(THIEF_S if case == "thief" else ROUND_S):
                await self._consume(run, case, at, near, samples := [0])
            most = max(samples)
        await trio.sleep(0.01)
        return self._loss(case, name, payer) / WINDOW_NANOTON, most / WINDOW_NANOTON

    async def _consume(self, run: Any, case: str, at: int, near: Tunnel, samples: list[int]) -> None:
        try:
            async with run:
                async for _ in run:
                    samples.append(self._loss(case, run._channel.payer.channel, run._channel.payer))
                    if run.usage.get(Unit.COMPLETION) >= at and case != "thief":
                        await (near if case == "client" else self._far[-1]).aclose("gone")
        except CocoonError:
            return

    def _loss(self, case: str, name: str, payer: PayerChannel) -> int:
        if case == "provider":
            return payer.account.prepaid_nanoton
        return self.server.accounts()[name].unpaid_nanoton


def _endpoint(identity: Identity) -> TunnelEndpoint:
    return TunnelEndpoint(identity, StaticKey.from_seed(identity.seed))


def _verifier_of(name: str) -> Any:
    key = channel_public_key(_SEED)

    def verify(seq: int, amount_nanoton: int, signature: bytes) -> bool:
        return Voucher(name, _NETWORK, seq, amount_nanoton).verify(key, signature)

    return verify


def _verifier(record: ChannelRecord) -> Any:
    return _verifier_of(record.channel)


def _agreement() -> Agreement:
    body = AgreementBody(
        client=_CLIENT.peer_id, provider=_PROVIDER.peer_id, subnet="main", task=Task.CHAT, model="m", tier=Tier.PLAIN,
        prices=_PRICES, credit_window_nanoton=WINDOW_NANOTON, max_amount_nanoton=_DEPOSIT, min_deposit_nanoton=0,
        max_parallel=1, valid_from_ms=_NOW_MS - 1000, valid_until_ms=_NOW_MS + 60_000,
        payer_address="0:" + "ab" * 32, payer_key=channel_public_key(_SEED), payee_address="0:" + "cd" * 32,
        payee_key=bytes(32), network_id=_NETWORK, quote=bytes(32),
    )  # fmt: skip
    return Agreement(body, sign_agreement(_CLIENT, body), sign_agreement(_PROVIDER, body))
