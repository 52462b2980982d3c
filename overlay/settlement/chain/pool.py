"""Requests over several liteservers: any of them may answer, as each answer is proved against a trusted block.

Everything in this file runs in the bridge's thread (:mod:`overlay.settlement.asyncio_bridge`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pytoniq.liteclient.client import LiteServerError
from pytoniq_core import Cell

from overlay.settlement.cells import address_of
from overlay.settlement.chain.blockstore import BlockStore
from overlay.settlement.chain.heads import TrustedHeads, cancel, names, take_note
from overlay.settlement.chain.limits import HEAD_TIMEOUT_S
from overlay.settlement.chain.lite import LinkBroken, ServerLink, server_error_text
from overlay.settlement.chain.network import Network
from overlay.settlement.chain.proved import ProvedAnswer, check_account_answer, check_config_answer
from overlay.settlement.errors import ChainUnavailable, OperationFailed, ProofRejected
from overlay.settlement.limits import MAX_TRANSACTIONS_PER_REQUEST
from overlay.settlement.transactions import AccountTransaction, parse_transaction

T = TypeVar("T")


@dataclass(frozen=True)
class ServerReport:
    """What is known about one liteserver. ``latency_ms`` and ``seqno`` are ``None`` before its first answer."""

    server: str
    ok: bool
    trouble: str
    latency_ms: int | None
    seqno: int | None


class LitePool:
    """Requests over the liteservers of one network; arguments and errors as those of :class:`TrustedHeads`."""

    def __init__(self, network: Network, *, trust_level: int, quorum: int, store: BlockStore | None) -> None:
        self.heads = TrustedHeads(network, trust_level=trust_level, quorum=quorum, store=store)
        self.links = self.heads.links
        self.start = self.heads.start
        self.next_block = self.heads.next_block
        self.take_news = self.heads.take_news
        self._handing_in: set[asyncio.Task[Any]] = set()

    async def account(self, address: str, *, not_before_s: float = 0.0) -> ProvedAnswer:
        """The account's proved state, or proved absence, in the newest trusted block.

        A server whose block is older than ``not_before_s`` (Unix time) is left for another where a single one decides;
        when none has a newer one, the old answer is returned.
        """
        wire = address_of(address).to_tl_account_id()
        oldest: ProvedAnswer | None = None
        for _ in self.links:
            block = await self.heads.newest()

            async def ask(link: ServerLink, at: Any = block) -> ProvedAnswer:
                answer = await link.request("getAccountState", {"id": at.to_dict(), "account": wire})
                return check_account_answer(answer, at, address)

            found = await self._ask_any(ask)
            if found.utime_s >= not_before_s or self.heads.quorum > 1:
                return found
            oldest = found
            self.heads.pause_stale(block)
        assert oldest is not None
        return oldest

    async def config(self, parameters: list[int]) -> dict[int, Any]:
        """Cells of the blockchain's configuration parameters (those that exist), proved in the newest trusted block."""
        block = await self.heads.newest()

        async def ask(link: ServerLink) -> dict[int, Any]:
            fields: dict[str, Any] = {"mode": 0, "id": block.to_dict(), "param_list": parameters}
            try:
                answer = await link.request("getConfigParams", fields)
            except LiteServerError:  # small servers answer only the whole configuration
                answer = await link.request("getConfigAll", {"mode": 0, "id": block.to_dict()})
            return check_config_answer(answer, block, parameters)

        return await self._ask_any(ask)

    async def transactions(self, address: str, lt: int, hash_: bytes, count: int) -> list[AccountTransaction]:
        """Up to ``count`` transactions from the one named backwards; each is proved by the hash in the one after it."""

        async def ask(link: ServerLink) -> list[AccountTransaction]:
            found: list[AccountTransaction] = []
            next_lt, next_hash = lt, hash_
            while next_lt and len(found) < count:
                batch = await _transactions(link, address, next_lt, next_hash, count - len(found))
                if not batch:
                    break
                found.extend(batch)
                next_lt, next_hash = batch[-1].previous_lt, batch[-1].previous_hash
            return found[:count]

        return await self._ask_any(ask)

    async def send(self, boc: bytes) -> None:
        """Hand an external message to every server of the pool; enough when one takes it.

        Raises :class:`OperationFailed` when all of them refuse, :class:`ChainUnavailable` when it is unknown whether
        the message went out.
        """

        async def hand_in(link: ServerLink) -> str | None:
            try:
                await link.request("sendMessage", {"body": boc})
            except LiteServerError as error:
                return server_error_text(error)
            return None

        tasks = [asyncio.create_task(hand_in(link)) for link in self.heads.active()]
        self._handing_in.update(tasks)
        for task in tasks:
            task.add_done_callback(self._handing_in.discard)
            task.add_done_callback(take_note)
        refusal, broken = "", ""
        for next_done in asyncio.as_completed(tasks):
            try:
                answer = await next_done
            except LinkBroken as error:
                broken = str(error)
                continue
            if answer is None:
                return  # the others go on: the more servers relay the message, the better
            refusal = answer
        if broken:
            raise ChainUnavailable(f"no liteserver has taken the message: {broken}")
        raise OperationFailed(f"the network refused the message: {refusal}")

    async def server_times(self) -> list[int]:
        """What the servers' own clocks show (Unix seconds), a claim each."""

        async def ask(link: ServerLink) -> int:
            return int((await link.request("getTime", {}, HEAD_TIMEOUT_S))["now"])

        answers = await asyncio.gather(*(ask(link) for link in self.heads.active()), return_exceptions=True)
        return [answer for answer in answers if isinstance(answer, int)]

    def reports(self) -> list[ServerReport]:
        """Each server's standing."""
        return [
            ServerReport(
                str(link.address), not link.trouble, link.trouble,
                None if link.latency_s is None else round(link.latency_s * 1000),
                None if link.head is None else link.head.seqno,
            )
            for link in self.links
        ]  # fmt: skip

    async def close(self) -> None:
        """Hang up."""
        await cancel(self._handing_in)
        await self.heads.close()

    async def _ask_any(self, ask: Callable[[ServerLink], Awaitable[T]]) -> T:
        """Ask one server after the other until one answers and its proof holds."""

        async def once() -> T:
            problem: Exception | None = None
            links = self.heads.active()
            for link in links:
                try:
                    return await ask(link)
                except LiteServerError as error:  # this server cannot, now: another may, or it may in a moment
                    problem = ChainUnavailable(f"{link.address}: {server_error_text(error)}")
                except LinkBroken as error:
                    problem = ChainUnavailable(f"no liteserver answers ({names(links)}): {error}")
                except ProofRejected as error:
                    self.heads.accuse(link, str(error))
                    problem = ProofRejected(f"{link.address}: {error}")
            assert problem is not None
            raise problem

        return await self.heads.retrying(once)


async def _transactions(link: ServerLink, address: str, lt: int, hash_: bytes, count: int) -> list[AccountTransaction]:
    fields = {
        "count": min(count, MAX_TRANSACTIONS_PER_REQUEST), "account": address_of(address).to_tl_account_id(),
        "lt": lt, "hash": hash_.hex(),
    }  # fmt: skip
    answer = await link.request("getTransactions", fields)
    found = []
    try:
        for cell in Cell.from_boc(answer["transactions"]):
            if cell.hash != hash_:
                raise ProofRejected("a liteserver's list of transactions is not the account's")
            found.append(parse_transaction(cell))
            hash_ = found[-1].previous_hash
    except ProofRejected:
        raise
    except Exception as error:  # pytoniq_core raises several unrelated types on malformed cells
        raise ProofRejected(f"a liteserver's list of transactions is malformed: {error!r}") from error
    return found
