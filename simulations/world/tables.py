"""How full the tables of a running node are, each beside the bound that its package's limits.py sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dht import limits as directory_limits
from dht.kad import limits as kad_limits
from overlay.channels import limits as channel_limits
from overlay.jobs import limits as job_limits
from overlay.market import MarketServer
from overlay.market import limits as market_limits
from overlay.node import deals
from overlay.node import links as node_links
from overlay.node.client import ClientNode
from overlay.node.provider import ProviderNode
from overlay.settlement.ledger import limits as ledger_limits
from simulations.network import VirtualHost
from simulations.network.limits import MAX_KNOWN_PEERS
from transport.host import limits as host_limits

Row = tuple[str, int, int]
"""A table's name, its entries, and the most that it may have."""


def tables(node: ProviderNode | ClientNode) -> Iterator[Row]:
    """All of one node, as far as it is not a queue that trio bounds."""
    yield from _of_host(node.host)
    yield from _of_discovery(node)
    ledger: Any = node.ledger
    yield "operations that wait for the ledger", len(ledger._queue), ledger_limits.MAX_PENDING_OPERATIONS
    if isinstance(node, ProviderNode):
        yield from _of_provider(node)
    else:
        yield from _of_client(node)


def _of_host(host: Any) -> Iterator[Row]:
    assert isinstance(host, VirtualHost)
    yield "connections", len(host._links), host_limits.MAX_CONNECTIONS
    yield "peers refused for a while", len(host._refused_until), host_limits.MAX_DROPPED_PEERS
    yield "peers whose addresses are known", len(host._known), MAX_KNOWN_PEERS
    streams = max((link.inbound_streams for link in host._links.values()), default=0)
    yield "streams of one connection", streams, host_limits.MAX_INBOUND_STREAMS


def _of_discovery(node: ProviderNode | ClientNode) -> Iterator[Row]:
    directory: Any = node.directory
    index = directory.index
    yield "records of the capacity index", len(index), directory_limits.MAX_RECORDS
    yield "providers dealt with", len(index._dealt_with), directory_limits.MAX_DEALT_WITH
    sellers = max((len(pool) for pool in index._sellers.values()), default=0)
    yield "records of one model", sellers, directory_limits.MAX_RECORDS_PER_MODEL
    kad: Any = node.discovery.table
    if kad is None:
        return
    largest = max((len(bucket) for bucket in kad._table._buckets), default=0)
    yield "contacts of one bucket", largest, kad_limits.K
    yield "records of the hash table", len(kad._records._records), kad_limits.MAX_RECORDS
    yield "provider keys of the hash table", len(kad._providers._keys), kad_limits.MAX_PROVIDER_KEYS
    yield "peers that wait for a probe", len(kad._neighbours._queue), kad_limits.MAX_PROBE_QUEUE
    yield "peers that serve no hash table", len(kad._neighbours._non_servers), kad_limits.MAX_NON_SERVERS


def _of_provider(node: ProviderNode) -> Iterator[Row]:
    jobs: Any = node.jobs
    yield "agreements in memory", len(jobs.book._known), job_limits.MAX_KNOWN_AGREEMENTS
    # A budget that is in use is never evicted: at most one for each running job is beyond the bound.
    yield "budgets", len(jobs.book._budgets), job_limits.MAX_KNOWN_AGREEMENTS + jobs.running_jobs
    yield "bytes of requests that are read", jobs.pending_bytes, job_limits.MAX_PENDING_BYTES
    most = job_limits.MAX_UNSIGNED_RECEIPTS + job_limits.MAX_JOBS_PER_TUNNEL * job_limits.MAX_CHANNELS_PER_TUNNEL
    for channel in jobs._channels.values():
        payee = channel.payee
        yield "receipts that a client has not signed", len(payee.unsigned), most
        yield "jobs of a channel", payee.running, job_limits.MAX_JOBS_PER_TUNNEL
        lost = job_limits.MAX_CLAIMS + job_limits.MAX_JOBS_PER_TUNNEL
        yield "lost jobs of a channel", len(payee._lost), lost
    for handler in node.host._handlers.values():  # type: ignore[attr-defined]  # a virtual host
        if isinstance(handler, MarketServer):
            desk: Any = handler.desk
            yield "negotiations", handler._sessions.total(), market_limits.MAX_SESSIONS
            yield "open quotes", len(desk._open), market_limits.MAX_OPEN_QUOTES
            yield "requests remembered", len(desk._seen), market_limits.MAX_REMEMBERED_REQUESTS
            yield "clients whose rate is known", len(desk._rates), market_limits.MAX_TRACKED_CLIENTS


def _of_client(node: ClientNode) -> Iterator[Row]:
    book: Any = node.links.book
    yield "agreements in memory", len(book._known), job_limits.MAX_KNOWN_AGREEMENTS
    market: Any = node.deals
    yield "standing agreements", len(market._deals), deals.MAX_DEALS
    yield "locks of negotiations", len(market._locks), deals.MAX_DEALS + 1
    links: Any = node.links
    yield "channels that wait for a link", len(links._machines.keys() - links._paying), node_links.MAX_UNSETTLED
    yield "announced channels", len(node.desk._announced), channel_limits.MAX_ANNOUNCED
    for machine in links._machines.values():
        yield "receipts out of order", len(machine._arrived), job_limits.MAX_OUT_OF_ORDER
        lost = job_limits.MAX_CLAIMS + job_limits.MAX_JOBS_PER_TUNNEL
        yield "claims of a channel", len(machine._claims), lost
