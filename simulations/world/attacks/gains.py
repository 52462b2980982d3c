"""What attackers gained and cost, and what they did to the others: reckoned from books, chain and jobs at the end.

A provider gains what clients promised it. What that is more than an honest one would have had shows beside the same
scenario and seed with its attackers honest, which :func:`honest` makes. A client gains what it was served and did not
promise, at the agreed price. Costs are electricity and wear of the work, and fees of the chain; what is locked in
channels is named in the note, since it comes back.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from compute.usage import UNITS_PER_PRICE, Unit
from overlay.settlement.ledger import Role, Store
from simulations.results import Attacker
from simulations.scenarios.model import Scenario
from simulations.world.attacks import buying
from simulations.world.attacks.crowds import Crowd, crowds

if TYPE_CHECKING:
    from simulations.world.buying import Order
    from simulations.world.nodes import ClientPeer, Peer, ProviderPeer
    from simulations.world.world import World

NANOTON = 1_000_000_000

P = TypeVar("P", bound="Peer[Any]")


def honest(scenario: Scenario) -> Scenario:
    """The same scenario with everybody honest and nobody who came to attack: for comparison, with the same seed."""
    return msgspec.structs.replace(
        scenario,
        providers=tuple(msgspec.structs.replace(group, behaviour="honest") for group in scenario.providers),
        clients=tuple(msgspec.structs.replace(group, behaviour="honest") for group in scenario.clients),
        attackers=(),
        expect=(),
    )


def outcomes(world: World) -> tuple[Attacker, ...]:
    """What each kind of attacker gained and cost: providers, clients, then others, in the scenario's order."""
    found = [_selling(world, name, sellers) for name, sellers in _kinds(world.providers).items()]
    found += [_buying(world, name, buyers) for name, buyers in _kinds(world.clients).items()]
    found += [_crowd(world, crowd) for crowd in crowds(world)]
    return tuple(found)


def _kinds(peers: Sequence[P]) -> dict[str, list[P]]:
    """Who misbehaves, by behaviour; with the name of the group where several have the same one."""
    groups: dict[tuple[str, str], list[P]] = {}
    for peer in peers:
        if peer.behaviour != "honest":
            groups.setdefault((peer.behaviour, peer.group), []).append(peer)
    several = Counter(behaviour for behaviour, _ in groups)
    return {
        behaviour if several[behaviour] == 1 else f"{behaviour}: {group}": members
        for (behaviour, group), members in groups.items()
    }


def _honest_orders(world: World) -> list[Order]:
    return [order for order in world.orders if world.clients[order.client].behaviour == "honest"]


def _late_s(orders: Iterable[Order]) -> list[float]:
    return [order.first_token_at_s - order.asked_at_s for order in orders if order.first_token_at_s is not None]


# --- who sells --------------------------------------------------------------------------------------------------------


def promised(books: Store | None, role: Role) -> int:
    """What the vouchers in somebody's books add up to, in nanoTON."""
    if books is None:
        return 0
    vouchers = (books.voucher(record.channel) for record in books.channels(role=role))
    return sum(voucher.amount_nanoton for voucher in vouchers if voucher is not None)


def _selling(world: World, kind: str, peers: Sequence[ProviderPeer]) -> Attacker:
    ids = {peer.peer_id for peer in peers}
    orders = _honest_orders(world)
    theirs = [order for order in orders if order.provider in ids]
    others = [order for order in orders if order.provider is not None and order.provider not in ids]
    earned = sum(promised(peer.machine.books, Role.PAYEE) for peer in peers)
    cost = sum(e.offering.cost_nanoton(e.made.usage()) for peer in peers for e in peer.used)
    fees = sum(world.chain.fees[peer.machine.wallet.address] for peer in peers)
    usual_s = statistics.median(_late_s(others) or [0.0])
    overcharged = sum(_overcharged(world, peer, theirs) for peer in peers)
    ended = Counter(order.outcome for order in theirs)
    harm = {
        "jobs_failed": float(ended["failed"]),
        "jobs_served": float(len(theirs)),
        "share_of_jobs": len(theirs) / max(1, len(theirs) + len(others)),
        "seconds_lost": round(sum(max(0.0, late - usual_s) for late in _late_s(theirs)), 1),
        "overcharged_nanoton": float(overcharged),
    }
    note = f"earned {earned} nanoTON of {len(theirs)} jobs of honest clients; {cost} of work, {fees} of chain fees"
    return Attacker(kind, len(peers), earned, cost + fees, harm, note)


def _overcharged(world: World, peer: ProviderPeer, orders: Sequence[Order]) -> int:
    """What honest clients paid it for tokens that were never made."""
    served = [order for order in orders if order.provider == peer.peer_id]
    paid = sum(order.paid_nanoton for order in served)
    counted = sum(order.units for order in served)
    made = sum(engine.made.usage().get(unit) for engine in peer.used for unit in (Unit.COMPLETION, Unit.AUDIO_MS))
    return paid * max(0, counted - made) // counted if counted else 0


# --- who buys ---------------------------------------------------------------------------------------------------------


def _buying(world: World, kind: str, peers: Sequence[ClientPeer]) -> Attacker:
    numbers = {peer.number for peer in peers}
    orders = [order for order in world.orders if order.client in numbers]
    served = sum(order.paid_nanoton for order in orders)
    paid = sum(promised(peer.machine.books, Role.PAYER) for peer in peers)
    fees = sum(world.chain.fees[peer.machine.wallet.address] for peer in peers)
    locked = sum(_deposits(peer.machine.books) for peer in peers)
    channels = sum(len(peer.machine.books.channels(role=Role.PAYER)) for peer in peers if peer.machine.books)
    ended = Counter(order.outcome for order in orders)
    unpaid = max(0, served - paid)
    harm = {
        "unpaid_nanoton": float(unpaid),
        "jobs_served": float(ended["done"]),
        "jobs_cut_off": float(ended["failed"]),
        "channels": float(channels),
        "most_unpaid_to_one_nanoton": float(max((_most_unpaid(world, numbers, orders)), default=0)),
        "work_lost_nanoton": float(_work(world, orders, unpaid, served)),
    }
    harm |= _asked(peers)
    note = f"{channels} channels, {locked / NANOTON:g} TON locked in them, {fees} nanoTON of chain fees"
    return Attacker(kind, len(peers), unpaid, paid + fees if kind.startswith("hoarder") else fees, harm, note)


def _asked(peers: Sequence[ClientPeer]) -> dict[str, float]:
    fishing = [peer.does for peer in peers if isinstance(peer.does, buying.QuoteFishing)]
    doubles = [peer.does for peer in peers if isinstance(peer.does, buying.DoubleSpending)]
    found: dict[str, float] = {}
    if fishing:
        found["rounds_of_quotes_asked"] = float(sum(one.asked for one in fishing))
    if doubles:
        found["channels_shown_to_others"] = float(sum(one.tried for one in doubles))
        found["channels_taken_by_others"] = float(sum(one.taken for one in doubles))
    return found


def _deposits(books: Store | None) -> int:
    return sum(record.deposit_nanoton for record in books.channels(role=Role.PAYER)) if books else 0


def _most_unpaid(world: World, numbers: set[int], orders: Sequence[Order]) -> list[int]:
    """For each client and provider: what was served and not promised."""
    served: Counter[tuple[int, str]] = Counter()
    for order in orders:
        if order.provider is not None:
            served[order.client, order.provider] += order.paid_nanoton
    for number in sorted(numbers):
        books = world.clients[number].machine.books
        for record in books.channels(role=Role.PAYER) if books else ():
            voucher = books.voucher(record.channel) if books else None
            if voucher is not None:
                served[number, record.peer] -= voucher.amount_nanoton
    return [max(0, nanoton) for nanoton in served.values()]


def _work(world: World, orders: Sequence[Order], unpaid: int, served: int) -> int:
    """What the unpaid share of the work has cost those who did it."""
    cost = 0
    for order in orders:
        if order.provider is not None and order.units:
            offering = world.providers[world.numbers[order.provider]].sold[0]
            unit = Unit.AUDIO_MS if Unit.AUDIO_MS in offering.unit_costs.per_million else Unit.COMPLETION
            cost += offering.unit_costs.per_million[unit] * order.units // UNITS_PER_PRICE
    return cost * unpaid // served if served else 0


# --- who does neither -------------------------------------------------------------------------------------------------


def _crowd(world: World, crowd: Crowd) -> Attacker:
    attack = crowd.attack
    orders = _honest_orders(world)
    about = [order for order in orders if order.client in crowd.victims] if crowd.victims else orders
    refused = sum(order.outcome == "refused" for order in about)
    harm = {
        "jobs_asked": float(len(about)),
        "jobs_refused": float(refused),
        "share_refused": refused / len(about) if about else 0.0,
        "median_first_result_s": round(statistics.median(_late_s(about) or [0.0]), 3),
        "inventions_held_most": float(crowd.held),
        "inventions_sent": float(crowd.sent),
    }
    gained = 0
    if "shows" in attack.options:
        shown = {peer.peer_id for peer in world.providers if peer.group == attack.options["shows"]}
        caught = [order for order in about if order.provider in shown]
        gained = sum(order.paid_nanoton for order in caught)
        harm["share_of_jobs"] = len(caught) / len(about) if about else 0.0
        harm["price_to_others"] = _price(caught) / max(1e-9, _price(o for o in orders if o not in caught))
    note = f"{len(crowd.hosts)} machines, {len(crowd.identities)} identities; it pays no fees"
    return Attacker(attack.kind, len(crowd.hosts), gained, 0, harm, note)


def _price(orders: Iterable[Order]) -> float:
    paid = units = 0
    for order in orders:
        paid, units = paid + order.paid_nanoton, units + order.units
    return paid / units if units else 0.0


__all__ = ["honest", "outcomes", "promised"]
