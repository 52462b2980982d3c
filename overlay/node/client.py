"""A client node: everything that buys, put together behind the gateway's :class:`~overlay.gateway.backend.JobBackend`.

    request → Deals (agreement) → Links (tunnel, channel) → JobClient → events

A job that a provider refuses or loses before anything was delivered goes to another provider; once something was
delivered, its user is told instead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from types import TracebackType
from typing import Any

import trio

from compute.tasks import ChatRequest, EmbedRequest, Message, Request, Task, TaskError, TranscribeRequest
from compute.usage import Prices
from dht import Directory
from overlay.chain import Chain
from overlay.channels import Payee, PayerDesk
from overlay.config import Config
from overlay.errors import (
    Busy,
    ChainError,
    CocoonError,
    ConfigError,
    InvalidRequest,
    ProviderGone,
    Unfunded,
    UnknownModel,
)
from overlay.events import EventLog, Observer
from overlay.gateway import ModelInfo
from overlay.jobs import AgreementBook, AgreementEnded, ChannelUnusable, ProtocolError
from overlay.market import Buyer, Payer
from overlay.node import views
from overlay.node.answers import odd
from overlay.node.deals import Deal, Deals
from overlay.node.discovery import Discovery, open_discovery
from overlay.node.hosting import tell_host_events
from overlay.node.links import Links
from overlay.node.machine import Machine
from overlay.node.purchase import BoughtTally, ClientRun
from overlay.node.upkeep import clean_ledger
from overlay.settlement.ledger import ChannelStatus, GroupCommit, LedgerError, Role
from overlay.subnet import Subnet
from transport.host.interface import Host
from transport.identity import Identity, PeerId
from transport.tunnel import TunnelEndpoint

MAX_TRIES = 3
"""Providers that one job is offered to before its user is told that it failed."""

FIRST_EVENT_S = 30.0
"""How much later than its provider announced the first events of a job may come before it goes to another one. Queues
are told of by their mean, and whoever leaves one loses his place: ten seconds cost honest markets more than it saves.
The last provider that is tried is waited for."""

FIRST_MODELS_S = 1.0
"""How long the first question for models waits for an answer."""

QUOTE_PROMPT = "How much for an ordinary question?"
QUOTE_AUDIO_MS = 10_000


class RunningJob:
    """The block of :meth:`ClientNode.run`. A class, since a generator and exit stacks cost every request more."""

    def __init__(self, node: ClientNode, request: Request) -> None:
        self._node = node
        self._request = request
        self._run: ClientRun

    async def __aenter__(self) -> ClientRun:
        self._run = await self._node._start(self._request)
        self._node.deals.running(self._run.provider)[self._run.run.job_id] = self._run
        return self._run

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._node.deals.over(self._run.provider, self._run.run.job_id)
        await self._run.run.__aexit__(kind, error, trace)
        if error is None:
            self._node.tally.add(self._run)
            self._node.judge(self._request, self._run)
        elif isinstance(error, ProviderGone | ProtocolError):
            # Its user is told, since something was delivered; whoever comes next is to fare better.
            self._node.deals.failed(self._request, self._run.deal, error)


@dataclass
class ClientNode:
    """A running client. Made by :func:`open_client`; implements :class:`~overlay.gateway.backend.JobBackend`."""

    identity: Identity
    subnet: Subnet
    chain: Chain
    ledger: GroupCommit
    host: Host
    directory: Directory
    desk: PayerDesk
    links: Links
    deals: Deals
    tally: BoughtTally
    log: EventLog
    discovery: Discovery
    started_at: float
    clock: Callable[[], float]

    # ---- jobs ----

    async def models(self) -> list[ModelInfo]:
        """What can be bought now, as far as it is known; the rest is looked for meanwhile."""
        # A client that knows of nothing yet is worth a moment's wait.
        timeout_s = 0.0 if self.directory.models() else FIRST_MODELS_S
        async with trio.open_nursery() as nursery:
            for kind in Task:
                look = partial(self.directory.wait_for_providers, timeout_s=timeout_s)
                nursery.start_soon(look, kind.value, None, self.deals.market.tier)
        found: dict[str, ModelInfo] = {}
        for task, model in self.directory.models():
            offers = [offer for _, _, offer in self.directory.providers(task, model)]
            if not offers or task not in set(Task):
                continue
            asks = [Prices.from_wire(dict(offer.prices)) for offer in offers]
            ask = min(asks, key=lambda prices: sum(prices.per_million.values()))
            known = found.get(model)
            tasks = {Task(task), *(known.tasks if known else ())}
            providers = max(len(offers), known.providers if known else 0)
            found[model] = ModelInfo(model, tasks, providers, known.min_ask if known else ask)
        return list(found.values())

    def run(self, request: Request) -> RunningJob:
        """Run one job, with another provider when the first fails before it delivered anything.

        Raises :class:`~overlay.errors.CocoonError`. Leaving the block early cancels the job at the provider.
        """
        return RunningJob(self, request)

    async def _start(self, request: Request) -> ClientRun:
        for attempt in range(1, MAX_TRIES + 1):
            deal: Deal | None = None
            try:
                deal = await self.deals.get(request)
                return await self._try(request, deal, attempt)
            except (AgreementEnded, ChannelUnusable) as error:
                # Nothing is wrong with the provider: a new agreement, or more in the channel, mends it.
                if deal is not None:
                    self.deals.ended(request, deal)
                problem: CocoonError = error
            except (Busy, UnknownModel) as error:
                if deal is not None:
                    self.deals.full(request, deal)
                elif isinstance(error, UnknownModel):
                    raise
                problem = error
            except ProviderGone as error:
                if deal is not None:
                    self.deals.failed(request, deal, error)
                problem = error
            except TaskError as error:
                raise InvalidRequest(str(error), param=error.param) from error
            except (ChainError, Unfunded) as error:
                # No channel can be opened or filled now; there may be others that can pay.
                if deal is not None or not self.deals.can_do_without_chain():
                    raise
                self.deals.drop(request)
                problem = error
            except LedgerError as error:
                raise CocoonError(f"the ledger: {error}") from error
            self.log.warning("retry", f"attempt {attempt} failed: {problem}", attempt=attempt)
        raise problem

    async def _try(self, request: Request, deal: Deal, tries: int) -> ClientRun:
        body = deal.agreement.body
        concrete = request if request.model == body.model else replace(request, model=body.model)
        run = deal.link.jobs.run(deal.agreement, deal.link.channel, concrete)
        due_s, since_s = self.deals.claimed_wait_s(deal), trio.current_time()
        await run.__aenter__()
        try:
            # The first events decide whether this provider does it: until then another one can.
            first = None
            with trio.move_on_after(inf if tries == MAX_TRIES else due_s + FIRST_EVENT_S) as patience:
                first = await anext(run, None)
            if patience.cancelled_caught:
                raise ProviderGone(f"no answer {FIRST_EVENT_S:g} s after it was to come")
        except BaseException as error:
            await run.__aexit__(type(error), error, error.__traceback__)
            raise
        first_s = trio.current_time() - since_s
        return ClientRun(run, deal, body.model, request.task, first, tries, due_s, first_s, first_s)

    def judge(self, request: Request, run: ClientRun) -> None:
        """Remember how a job went that has ended, or was left."""
        record = self.directory.index.get(run.provider, self.clock())
        offers = record.offers if record is not None else ()
        context = next((o.context for o in offers if (o.task, o.model) == (run.task, run.model)), 0)
        wrong = odd(request, run.usage, things=run.things, reason=run.reason, context=context) if run.reason else None
        if wrong is None:
            self.deals.served(request, run.deal, run.served())
            return
        self.log.warning(
            "odd_answer",
            f"the answer of …{run.provider[-8:]} cannot be: {wrong}",
            provider=run.provider,
            model=run.model,
        )
        self.deals.failed(request, run.deal, ProviderGone(wrong))

    async def quotes(self, task: Task, model: str) -> list[dict[str, Any]]:
        """For `cocoon quote`: binding quotes, none accepted."""
        found = await self.deals.quotes(task, model, _sample_request(task, model))
        return [
            {
                "provider": offer.provider,
                "model": name,
                "prices": offer.quote.prices.to_wire(),
                "start_ms": offer.quote.start_ms,
                "sample_nanoton": offer.cost_nanoton,
                "note": f"{offer.cost_nanoton} nanoTON for a typical job",
            }
            for offer, name in found
        ]

    async def quote(self, arguments: Mapping[str, Any]) -> Any:
        """The same, asked through the control socket."""
        try:
            return await self.quotes(Task(arguments["task"]), str(arguments["model"]))
        except (KeyError, ValueError) as error:
            raise InvalidRequest(f"not something to quote: {error}") from error

    # ---- money ----

    async def open_channel(self, provider: str, deposit_nanoton: int | None) -> dict[str, Any]:
        """Open a channel ahead of the first job: agree with that provider on anything it sells, then fund it."""
        await self.discovery.reach(PeerId(provider), timeout_s=5.0)
        record = self.directory.index.get(PeerId(provider), self.clock())
        if record is None or not record.offers:
            raise ConfigError(f"no offer of {provider} is known; `cocoon quote` lists who sells what")
        offer = record.offers[0]
        quotes = await self.deals.quotes(Task(offer.task), offer.model, _sample_request(Task(offer.task), offer.model))
        quote = next((q.quote for q, _ in quotes if q.provider == provider), None)
        if quote is None:
            raise ProviderGone(f"the provider {provider} gives no quote now; try again later")
        payee = Payee(PeerId(provider), quote.payee_address, quote.payee_key, record.host_addrs)
        channel = await self.desk.ensure(
            payee,
            spendable_nanoton=1,
            min_deposit_nanoton=quote.min_deposit_nanoton,
            deposit_nanoton=deposit_nanoton,
        )
        return {"channel": channel.channel, "deposit_nanoton": channel.deposit_nanoton}

    async def settle(self, arguments: Mapping[str, Any]) -> Any:
        """For `cocoon channel settle`: close one or all channels together with their providers."""
        return await self._end(arguments.get("channel"))

    async def leave(self, arguments: Mapping[str, Any]) -> Any:
        """For `cocoon channel exit`: leave one channel alone."""
        channel = str(arguments["channel"])
        link = self.links.of(channel)
        if link is not None:
            with trio.move_on_after(10.0):
                await link.channel.settled()
        left = await self.desk.leave(channel)
        if link is not None:
            self.links.drop(link)
        return [views.ended(left)]

    async def _end(self, channel: str | None) -> list[dict[str, Any]]:
        done = []
        for record, _terms in await self.desk.live():
            if channel not in (None, record.channel):
                continue
            link = self.links.of(record.channel)
            if link is not None:
                with trio.move_on_after(10.0):
                    await link.channel.settled()
            await self.discovery.reach(PeerId(record.peer), timeout_s=2.0)
            known = self.directory.index.get(PeerId(record.peer), self.clock())
            addrs = known.host_addrs if known else ()
            ended = await self.desk.close_together(record.channel, addrs)
            if link is not None:
                self.links.drop(link)
            done.append(views.ended(ended))
        if channel is not None and not done:
            raise ConfigError(f"there is no live channel {channel}; `cocoon channel list` shows them")
        return done

    async def wallet(self, _arguments: Mapping[str, Any]) -> Any:
        """The wallet's address and balance."""
        return await views.wallet(self.chain)

    async def list_channels(self, _arguments: Mapping[str, Any]) -> Any:
        """For `cocoon channel list`."""
        return await views.channels(self.ledger, self.links.accounts())

    # ---- who is there ----

    async def status(self, _arguments: Mapping[str, Any]) -> Any:
        """For `cocoon node status` in a client's data directory."""
        return {
            "peer_id": self.identity.peer_id,
            "subnet": self.subnet.id,
            "uptime_s": round(self.clock() - self.started_at),
            "wallet": self.chain.account.wallet.friendly_address(),
            "network": self.chain.network,
            "peers": len(self.host.peers()),
            "tunnels": views.tunnels(self.links.tunnels()),
            "money": await views.money(self.ledger, Role.PAYER, self.links.accounts(), self.links.risk),
            "discovery": self.discovery.state(),
        }

    async def peers(self, _arguments: Mapping[str, Any]) -> Any:
        """For `cocoon node peers`."""
        return views.peers(self.discovery)

    async def providers(self, arguments: Mapping[str, Any]) -> Any:
        """For `cocoon market providers`."""
        return await views.market(self.discovery, arguments)


def _sample_request(task: Task, model: str) -> Request:
    match task:
        case Task.TRANSCRIBE:
            return TranscribeRequest(model, b"", QUOTE_AUDIO_MS)
        case Task.EMBED:
            return EmbedRequest(model, [QUOTE_PROMPT])
        case _:
            return ChatRequest(model, [Message("user", QUOTE_PROMPT)])


@asynccontextmanager
async def open_client(
    config: Config, machine: Machine, subnet: Subnet, bootstrap: Sequence[str], observer: Observer
) -> AsyncIterator[ClientNode]:
    """Run a client for the length of the block; leaving it pays every provider what is owed.

    Raises :class:`~overlay.errors.CocoonError` when it cannot start.
    """
    clock, rng = machine.clock, machine.rng
    log = EventLog(observer, clock)
    identity = machine.identity()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        chain = await enter(machine.open_chain(config, log, may_start_devnet=False))
        ledger = await enter(machine.open_ledger())
        host = await enter(machine.open_host(config, identity, subnet, bootstrap, log, listen=False))
        discovery = await enter(open_discovery(config, machine, identity, subnet, host))
        directory = discovery.directory
        dealt_with = await ledger.run(lambda store: store.channels(role=Role.PAYER))
        for known in dealt_with:
            directory.index.deal_with(PeerId(known.peer))
        desk = PayerDesk(
            chain, ledger, host, subnet.id, log, clock, rng.randrange, config.ton.deposit_nanoton,
            config.ton.channel_lifetime_s, config.ton.challenge_period_s,
        )  # fmt: skip
        recovered = await desk.recovered()
        nursery = await enter(trio.open_nursery())
        stack.callback(nursery.cancel_scope.cancel)
        if not recovered:
            nursery.start_soon(desk.keep_recovering)
        endpoint = TunnelEndpoint.of(
            identity, subnet=subnet.id, psk=subnet.tunnel_psk, random_bytes=machine.random_bytes
        )
        links = Links(
            identity, endpoint, chain, ledger, AgreementBook(ledger), desk, directory, host, nursery, log,
            lambda: int(clock()), machine.random_bytes, views.spend_caps(config.risk),
        )  # fmt: skip
        payer = Payer(address=chain.account.address, key=chain.channel_key)
        buyer = Buyer(identity, subnet.id, payer, chain.client.network_id)
        deals = Deals(
            host, directory, buyer, config.market, config.ton.deposit_nanoton, links, nursery, log, clock, rng
        )
        for known in dealt_with:
            if known.status is ChannelStatus.DISPUTED:
                deals.reputation.disputed(PeerId(known.peer), trio.current_time())
        nursery.start_soon(tell_host_events, host, log)
        nursery.start_soon(clean_ledger, ledger, clock)
        tally = BoughtTally(log)
        nursery.start_soon(tally.run)
        try:
            yield ClientNode(
                identity,
                subnet,
                chain,
                ledger,
                host,
                directory,
                desk,
                links,
                deals,
                tally,
                log,
                discovery,
                clock(),
                clock,
            )
        finally:
            with trio.CancelScope(shield=True):
                await links.settle_up()
