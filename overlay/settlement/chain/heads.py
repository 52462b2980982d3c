"""Which masterchain block is believed, and which liteservers are asked for it.

Whatever is read is proved against one masterchain block, so that all trust comes down to that block:

- trust level 0: validators signed it (:mod:`overlay.settlement.chain.blockproof`); a server can only hide newer ones;
- trust level 1: ``quorum`` servers name the same block; one that names another is outvoted, named and left alone;
- trust level 2 is level 1 with a quorum of one: whatever the quickest server says.

A block that was trusted once is never gone back from: a server that is behind it has to catch up.

Everything in this file runs in the bridge's thread (:mod:`overlay.settlement.asyncio_bridge`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from pytoniq.liteclient.client import LiteServerError

from overlay.settlement.chain.blockproof import check_block_proof
from overlay.settlement.chain.blockstore import BlockStore
from overlay.settlement.chain.limits import (
    CATCH_UP_S,
    HEAD_GRACE_S,
    LIAR_PAUSE_S,
    MAX_NEWS,
    MAX_PROOF_ROUNDS,
    POOL_SIZE,
    PROOF_TOOK_LONG_S,
    RETRY_BACKOFF_S,
    STALE_AFTER_S,
)
from overlay.settlement.chain.lite import LinkBroken, ServerLink, server_error_text
from overlay.settlement.chain.network import Network
from overlay.settlement.errors import ChainUnavailable, ProofRejected, ServersDisagree
from overlay.settlement.limits import RECONNECT_BACKOFF_S

T = TypeVar("T")

_WRONG_NETWORK = "is of another network"


class _Behind(Exception):
    """Nobody is as far as what was trusted before: wait for them to catch up."""


def default_quorum(servers: int) -> int:
    """How many servers must name the same block: two of three; with two, both; with one there is no choice."""
    return min(servers, 2)


class TrustedHeads:
    """The newest believable block of a network, out of what its liteservers say.

    ``quorum`` 0 takes :func:`default_quorum`; ``store`` remembers the newest proved key block for trust level 0.
    Raises ``ValueError`` when the network's file does not allow what is asked for.
    """

    def __init__(self, network: Network, *, trust_level: int, quorum: int, store: BlockStore | None) -> None:
        count = len(network.servers)
        if trust_level not in (0, 1, 2):
            raise ValueError("a trust level is 0 (validators), 1 (several servers) or 2 (one server)")
        if not 0 <= quorum <= count:
            raise ValueError(f"a quorum of {quorum} liteservers, but the global config names {count}")
        if trust_level == 0 and network.init_block is None:
            raise ValueError("trust level 0 needs an init_block in the global config: the block that trust begins with")
        self.network = network
        self.trust_level = trust_level
        self.quorum = 1 if trust_level == 2 else quorum or default_quorum(count)
        self.links = [ServerLink(server, self._heard, self._say) for server in network.servers]
        self.floor: Any = None
        """The newest block that was trusted."""
        self._key_block = network.init_block
        self._store = store
        if trust_level == 0 and store is not None:
            self._key_block = store.load(network.store_key()) or self._key_block
        self._proving = asyncio.Lock()
        self._new_block = asyncio.Event()
        self._asking: dict[ServerLink, tuple[asyncio.Task[Any], float]] = {}
        self._news: deque[str] = deque(maxlen=MAX_NEWS)

    async def start(self) -> None:
        """Begin to connect to more servers than are needed, to find out which are quick."""
        for link in self.links[: 2 * POOL_SIZE]:
            self._fetch(link)

    async def next_block(self, timeout_s: float) -> None:
        """Return when any server names a new block, or after ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._new_block.wait(), timeout_s)

    def take_news(self) -> list[str]:
        """What was noticed about servers since the last call, a line each. May be called from any thread."""
        found = []
        while True:
            try:
                found.append(self._news.popleft())
            except IndexError:
                return found

    async def close(self) -> None:
        """Hang up."""
        await cancel(task for task, _ in self._asking.values())
        await asyncio.gather(*(link.close() for link in self.links), return_exceptions=True)

    async def newest(self) -> Any:
        """The newest masterchain block that may be trusted, never older than one before."""
        deadline = asyncio.get_running_loop().time() + CATCH_UP_S

        async def once() -> Any:
            while True:
                try:
                    return await self._vote()
                except _Behind as error:
                    if asyncio.get_running_loop().time() >= deadline:
                        known = self._key_block if self.floor is None else self.floor
                        raise ChainUnavailable(
                            f"the liteservers are behind block {known.seqno}, which was trusted before: {error}"
                        ) from error
                    await asyncio.sleep(RETRY_BACKOFF_S[0])

        clock = asyncio.get_running_loop().time
        for _ in range(3):
            began = clock()
            block = await self.retrying(once)
            if self.floor is None or block.seqno > self.floor.seqno:
                self.floor = block
            if clock() - began <= PROOF_TOOK_LONG_S:
                break
            # Years of key blocks take minutes to walk: by now there is a newer block, one link away.
        return self.floor

    async def _vote(self) -> Any:
        """Ask the active servers for their newest block until enough of them agree."""
        links = self.active()
        if self.quorum == 1 and self.trust_level > 0:
            return await self._first(links)
        now = asyncio.get_running_loop().time()
        prompt = [link for link in links if now - self._asking_since(link, now) <= HEAD_GRACE_S]
        links = prompt if len(prompt) >= self.quorum else links
        pending = {asyncio.create_task(self._fresh_head(link)): link for link in links}
        heads: dict[ServerLink, Any] = {}
        problem: Exception | None = None
        patience: float | None = None
        while pending:
            done, _ = await asyncio.wait(pending, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                link = pending.pop(task)
                try:
                    heads[link] = task.result()
                except (LinkBroken, LiteServerError) as error:
                    problem = error
            if len(heads) >= self.quorum and pending and done and len({head.seqno for head in heads.values()}) > 1:
                # One is behind. Is it by a moment, or has it stopped? The next answer decides, if it comes soon.
                patience = HEAD_GRACE_S
                continue
            # Signatures prove a block whoever shows it: at trust level 0 fewer answers will do when no more come.
            if len(heads) >= self.quorum or (heads and not pending and self.trust_level == 0):
                try:
                    return await self._choose(heads)
                except (_Behind, ProofRejected, ChainUnavailable) as error:
                    problem, patience = error, None  # one more answer may settle it
        if isinstance(problem, (_Behind, ProofRejected, ChainUnavailable)):
            raise problem
        if heads:
            raise ChainUnavailable(
                f"only {len(heads)} of {len(self.links)} liteservers answer and {self.quorum} must agree "
                f"({names(heads)} answers; {_error_text(problem)}); ton.quorum = {len(heads)} would do with fewer"
            )
        raise ChainUnavailable(f"no liteserver answers ({names(links)}): {_error_text(problem)}")

    async def _fresh_head(self, link: ServerLink) -> Any:
        """Ask for the newest block after whatever is being asked of this server already.

        What nobody waits for any more is not cancelled: taking a connection down costs more than its late answer.
        """
        while (late := self._asking.get(link)) is not None:
            await asyncio.wait([late[0]])
        return await asyncio.shield(self._fetch(link))

    def _fetch(self, link: ServerLink) -> asyncio.Task[Any]:
        task = asyncio.create_task(link.fetch_head())
        self._asking[link] = task, asyncio.get_running_loop().time()
        task.add_done_callback(lambda done: self._asked(link, done))
        return task

    def _asking_since(self, link: ServerLink, now: float) -> float:
        """Since when an answer of this server is awaited; ``now`` when none is."""
        return self._asking[link][1] if link in self._asking else now

    def _asked(self, link: ServerLink, task: asyncio.Task[Any]) -> None:
        if link in self._asking and self._asking[link][0] is task:
            del self._asking[link]
        take_note(task)

    async def _first(self, links: list[ServerLink]) -> Any:
        """Where one server decides: the newest block of the quickest one that answers."""
        problem: Exception | None = None
        for link in links:
            try:
                return await self._choose({link: await link.fetch_head()})
            except (_Behind, ProofRejected, LinkBroken, LiteServerError) as error:
                problem = error
        if isinstance(problem, (_Behind, ProofRejected)):
            raise problem
        raise ChainUnavailable(f"no liteserver answers ({names(links)}): {_error_text(problem)}")

    async def _choose(self, heads: dict[ServerLink, Any]) -> Any:
        for link in heads:
            self._check_network(link)
        trusted = {link: head for link, head in heads.items() if not link.trouble.startswith(_WRONG_NETWORK)}
        if len(trusted) < self.quorum:
            raise ProofRejected(f"{names(heads)}: of another network than the global config")
        if self.trust_level == 0:
            return await self._highest_proved(trusted)
        block = await self._most_agreed(trusted)
        self._blame(block)
        return block

    async def _most_agreed(self, heads: dict[ServerLink, Any]) -> Any:
        """The block at the greatest height that ``quorum`` servers have reached, where that many name the same one."""
        seqno = sorted((head.seqno for head in heads.values()), reverse=True)[self.quorum - 1]
        if self.floor is not None and seqno < self.floor.seqno:
            raise _Behind(", ".join(f"{link.address} is at {head.seqno}" for link, head in heads.items()))
        voters = [link for link, head in heads.items() if head.seqno >= seqno]
        votes: dict[Any, list[ServerLink]] = {}
        for link, block in zip(voters, await asyncio.gather(*(v.block_at(seqno) for v in voters)), strict=True):
            if block is not None:
                votes.setdefault(block, []).append(link)
        for block, links in votes.items():
            if len(links) >= self.quorum:
                return block
        said = "; ".join(f"{names(links)}: {block.root_hash.hex()[:16]}…" for block, links in votes.items())
        raise ServersDisagree(
            f"the liteservers disagree about masterchain block {seqno} ({said}) and fewer than {self.quorum} say the "
            "same: one of them lies; take it out of the global config, or set ton.trust_level = 0 to ask validators"
        )

    async def _highest_proved(self, heads: dict[ServerLink, Any]) -> Any:
        """The newest of the named blocks that validators have signed."""
        problem: Exception | None = None
        for link, head in sorted(heads.items(), key=lambda entry: -entry[1].seqno):
            if self.floor is not None and head.seqno < self.floor.seqno:
                break
            try:
                await self._prove(link, head)
            except ProofRejected as error:
                self.accuse(link, str(error))
                problem = error
            except (_Behind, LinkBroken, LiteServerError) as error:
                problem = error
            else:
                return head
        if isinstance(problem, (ProofRejected, _Behind)):
            raise problem
        if problem is not None:
            raise ChainUnavailable(f"no liteserver proves its newest block: {_error_text(problem)}") from problem
        raise _Behind("nobody has a newer one")

    async def _prove(self, link: ServerLink, head: Any) -> None:
        async with self._proving:
            known = self._key_block
            if head in (known, self.floor):
                return
            if self.floor is not None and head.seqno == self.floor.seqno:
                raise ProofRejected(f"shows a second block with number {head.seqno}")
            if head.seqno < known.seqno:
                raise _Behind(f"{link.address} is at {head.seqno}, before the key block {known.seqno}")
            try:
                await self._walk(link, known, head)
            except LiteServerError:
                if known == self.network.init_block:
                    raise
                await self._walk(link, self.network.init_block, head)  # the remembered block is not on its chain

    async def _walk(self, link: ServerLink, known: Any, head: Any) -> None:
        for _ in range(MAX_PROOF_ROUNDS):
            fields = {"known_block": known.to_dict(), "mode": 1, "target_block": head.to_dict()}
            proved = check_block_proof(await link.request("getBlockProof", fields), known, head)
            if proved.key_block != self._key_block:
                self._key_block = proved.key_block
                if self._store is not None:
                    self._store.save(self.network.store_key(), proved.key_block)
            if proved.last == head:
                return
            known = proved.key_block
        raise ProofRejected(f"the chain of key blocks to {head.seqno} is longer than it can be")

    # ---- whom to ask ----

    def active(self) -> list[ServerLink]:
        """The servers to ask now, the quickest first; those in a pause only when there are too few others."""
        now = asyncio.get_running_loop().time()
        ranked = sorted(self.links, key=lambda link: (max(link.paused_until - now, 0.0), link.expected_latency_s))
        size = max(POOL_SIZE, 2 * self.quorum - 1)
        rested = sum(link.paused_until <= now for link in ranked)
        return ranked[: min(size, max(rested, self.quorum))]

    async def retrying(self, once: Callable[[], Awaitable[T]]) -> T:
        """Try again, with growing pauses, while servers fail; the last error is raised."""
        for pause in RECONNECT_BACKOFF_S:
            try:
                return await once()
            except (ChainUnavailable, ProofRejected):
                await asyncio.sleep(pause)
        return await once()

    # ---- who is wrong ----

    def _check_network(self, link: ServerLink) -> None:
        if self.network.zero_state is not None and link.zero_state not in (None, self.network.zero_state):
            self.accuse(link, f"{_WRONG_NETWORK} than {self.network.name}")

    def _blame(self, block: Any) -> None:
        """After a vote: name the servers that said otherwise, and those that have fallen behind."""
        now = asyncio.get_running_loop().time()
        for link in self.links:
            named = link.named(block.seqno)
            if named is not None and named != block:
                self.accuse(link, f"names another masterchain block {block.seqno} than the majority")
            elif link.connected and link.head.seqno < block.seqno and now - link.head_at > STALE_AFTER_S:
                link.pause(STALE_AFTER_S, f"is stale: still at block {link.head.seqno}, not {block.seqno}")

    def pause_stale(self, block: Any) -> None:
        """Prefer servers that have named a block after this one, which is too old."""
        for link in self.links:
            if link.head is not None and link.head.seqno <= block.seqno:
                link.pause(STALE_AFTER_S, f"is behind: its newest block is {link.head.seqno}")

    def accuse(self, link: ServerLink, reason: str) -> None:
        """A server contradicted its own proof, the majority or the validators: leave it alone."""
        link.pause(LIAR_PAUSE_S, reason)

    def _say(self, line: str) -> None:
        self._news.append(line)

    def _heard(self, link: ServerLink, info: dict[str, Any]) -> None:
        self._new_block.set()
        self._new_block = asyncio.Event()


def take_note(task: asyncio.Task[Any]) -> None:
    """Whoever waits for the task sees its error, and its link has taken note; asyncio need not complain."""
    if not task.cancelled():
        task.exception()


async def cancel(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel these tasks and wait until they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def names(links: Iterable[ServerLink]) -> str:
    """Their addresses, for people."""
    return ", ".join(str(link.address) for link in links)


def _error_text(error: Exception | None) -> str:
    if isinstance(error, LiteServerError):
        return server_error_text(error)
    return str(error) if error is not None else "nobody has a newer one"
