"""What is read off a world, now and then and at the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

import trio

from compute.tasks import Task
from compute.usage import UNITS_PER_PRICE
from overlay.market import Load
from overlay.market.selection import MAIN_UNIT
from overlay.settlement.ledger import Role, Store
from simulations.results import Market, Provider, Sample, Traffic
from simulations.world.buying import Order
from simulations.world.nodes import ProviderPeer
from simulations.world.world import World

_Key = tuple[Task, str]


class Sampler:
    """Takes samples of ``world``, and keeps what lies between two of them."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ended = Counter[str]()
        self._recovered = 0
        self._paid: dict[Task, list[int]] = defaultdict(lambda: [0, 0])

    def note(self, order: Order) -> None:
        """A job has ended."""
        self._ended[order.outcome] += 1
        self._recovered += order.outcome == "done" and order.tries > 1
        sums = self._paid[order.task]
        sums[0] += order.paid_nanoton
        sums[1] += order.units

    def take(self) -> Sample:
        """The world now."""
        world, now = self._world, trio.current_time()
        nodes = world.provider_nodes()
        asks: dict[_Key, list[float]] = defaultdict(list)
        sums: dict[_Key, list[int]] = defaultdict(lambda: [0, 0, 0])
        unpaid = 0
        for _, node in nodes:
            for key, load in node.shop.loads().items():
                if (controller := node.shop.controllers.get(key)) is None:
                    continue
                ask = controller.ask(Load(load.busy, load.slots, load.wait_s))
                asks[key].append(float(ask.per_million[MAIN_UNIT[key[0]]]))
                for place, count in enumerate((load.slots, load.busy, load.queued)):
                    sums[key][place] += count
            unpaid += sum(account.unpaid_nanoton for account in node.jobs.accounts().values())
        paid, self._paid = self._paid, defaultdict(lambda: [0, 0])
        markets = tuple(
            _market(key, sums[key], sorted(asks[key]), paid[key[0]])
            for key in sorted(asks)
            if key[0] is not Task.COMPLETION  # the same engines as chat
        )
        channels = [c for c in world.chain.model.channels.values() if c.state is not None and c.state.deposit_nanoton]
        on_chain = sum(channel.state.paid_nanoton for channel in channels if channel.state is not None)
        promised = sum(_promised(peer.machine.books, live=True) for peer in world.providers)
        return Sample(
            round(now, 3), len(nodes), sum(client.up for client in world.clients), markets, len(world.orders),
            self._ended["done"], self._ended["failed"], self._ended["refused"], self._recovered, len(channels),
            sum(channel.state.deposit_nanoton for channel in channels if channel.state is not None), unpaid,
            max(0, promised - on_chain), world.network.messages, world.network.bytes,
        )  # fmt: skip


def _promised(books: Store | None, *, live: bool) -> int:
    """What vouchers in a provider's books add up to."""
    if books is None:
        return 0
    records = books.live_channels(Role.PAYEE) if live else books.channels(role=Role.PAYEE)
    vouchers = (books.voucher(record.channel) for record in records)
    return sum(voucher.amount_nanoton for voucher in vouchers if voucher is not None)


def _market(key: _Key, sums: Sequence[int], asks: Sequence[float], paid: Sequence[int]) -> Market:
    slots, busy, waiting = sums
    low, middle, high = (_quantile(asks, share) for share in (0.1, 0.5, 0.9))
    return Market(key[0].value, key[1], slots, busy, waiting, low, middle, high, _mean_price(*paid))


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]


def _mean_price(paid: int, units: int) -> float | None:
    return paid * UNITS_PER_PRICE / units if units else None


def providers(world: World) -> tuple[Provider, ...]:
    """What became of each provider."""
    served: Counter[int] = Counter()
    failed: Counter[int] = Counter()
    for order in world.orders:
        if order.provider is not None:
            (served if order.outcome == "done" else failed)[world.numbers[order.provider]] += 1
    return tuple(_provider(world, peer, served[peer.number], failed[peer.number]) for peer in world.providers)


def _provider(world: World, peer: ProviderPeer, served: int, failed: int) -> Provider:
    first = peer.sold[0]
    cost = sum(engine.offering.cost_nanoton(engine.made.usage()) for engine in peer.used)
    slot_s = sum(engine.slot_s for engine in peer.used)
    return Provider(
        peer.number, peer.group, peer.hardware, peer.behaviour, first.slots, first.units_per_s,
        _promised(peer.machine.books, live=False), cost, world.chain.fees[peer.machine.wallet.address], served, failed,
        round(slot_s, 3), round(peer.uptime_s(), 3),
        tuple((offer.model, offer.slots) for offer in peer.sold),
        tuple((round(begins_s, 3), round(ends_s, 3)) for begins_s, ends_s in peer.shifts_now()), peer.floor,
    )  # fmt: skip


def traffic(world: World) -> tuple[Traffic, ...]:
    """By protocol, the busiest first."""
    rows = [Traffic(name, carried.messages, carried.bytes) for name, carried in world.network.carried.items()]
    return tuple(sorted(rows, key=lambda row: (-row.bytes, row.protocol)))
