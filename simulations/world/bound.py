"""The most that any schedule of a run could be worth: the dual of a fluid assignment problem that knows the time.

:mod:`simulations.market.optimum` derives it for a market that stays as it is. Here demand and machines come and go, so
what is traded is time of a class of machines in one minute: a *place*. A job may go to any class that serves its
model, in the minute in which it was asked for or one of the next (:data:`PATIENCE`), alone on its machine; it is worth
the less the later that lets it end, and takes the machine's time that it would take with all slots busy. Jobs are
divisible, so one that is done in a later minute is only known to end after that minute's beginning. The linear program

    max  Σ worth_jo x_jo − Σ rate_s y_s    s.t.  Σ_o x_jo ≤ 1,   y_s ≤ capacity_s,   Σ_p seconds_jo x_jo ≤ Σ_p y_s

where a seller s is one machine in one minute, with what its owner wants for a second at least, has, with a price λ_p
for a second of each place, the dual

    g(λ) = Σ_j max(0, max_o worth_jo − λ_p(o) seconds_jo) + Σ_s capacity_s max(0, λ_p(s) − rate_s)

of which every λ gives a bound (weak duality) and the least one the optimum (strong duality). Nobody could reach it: it
knows all jobs of the future, its messages take no time, and its machines are as quick as when idle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

MINUTE_S = 60.0
"""Length of a place. Jobs take a quarter of it; finer ones change the bound by less than one part in a hundred."""

PATIENCE = 3
"""Minutes in which a job may be done, the one in which it was asked for included. Clients give up much sooner."""

_STEPS = 400
_FIRST_STEP, _BLUR, _SHRINKS = 0.3, 0.05, 0.08


@dataclass(frozen=True)
class Fluid:
    """The program. Options of a job that it has not are worth −∞."""

    worth: Floats
    """[job, option] nanoTON, waiting taken off."""
    seconds: Floats
    """[job, option] of a machine."""
    place: Places
    """[job, option]"""
    seller: Places
    """[seller] its place."""
    capacity_s: Floats
    """[seller]"""
    rate: Floats
    """[seller] nanoTON that its owner wants for a second."""
    places: int

    def best(self, prices: Floats) -> tuple[Floats, Places]:
        """What each job has of its best option at these prices, and which that is; 0 where none is worth its price."""
        if not self.worth.size:
            return np.zeros(len(self.worth)), np.zeros(len(self.worth), dtype=np.intp)
        gains = self.worth - prices[self.place] * self.seconds
        chosen = gains.argmax(axis=1)
        return np.maximum(0.0, gains[np.arange(len(gains)), chosen]), chosen

    def dual(self, prices: Floats) -> float:
        """g: a bound, whatever the prices are."""
        rent = np.maximum(0.0, prices[self.seller] - self.rate)
        return float(self.best(prices)[0].sum() + (self.capacity_s * rent).sum())

    def offered_s(self, prices: Floats, blur: float) -> Floats:
        """Seconds of each place that are on offer at these prices; who wants about as much as there is to be had,
        within ``blur`` of it, offers a part."""
        above = (prices[self.seller] / self.rate - 1) / blur
        willing = 1 / (1 + np.exp(-np.clip(above, -30.0, 30.0)))
        return _sums(self.seller, self.capacity_s * willing, self.places)

    def least_rates(self) -> Floats:
        """What the cheapest seller of each place wants, and of those without a seller, the dearest of all."""
        rates = np.full(self.places, self.rate.max(initial=1.0))
        np.minimum.at(rates, self.seller, self.rate)
        return rates

    def wanted_s(self, prices: Floats, blur: float) -> Floats:
        """Seconds of each place that jobs want at these prices. Each spreads itself over what is nearly as good as its
        best, within ``blur`` of what it is worth at most: else all that have the same choice would move as one."""
        if not self.worth.size:
            return np.zeros_like(prices)
        gains = self.worth - prices[self.place] * self.seconds
        best = np.maximum(0.0, gains.max(axis=1))
        scale = blur * np.maximum(1.0, self.worth.max(axis=1))
        likes = np.exp((gains - best[:, None]) / scale[:, None])
        likes /= (likes.sum(axis=1) + np.exp(-best / scale))[:, None]
        return _sums(self.place.ravel(), (likes * self.seconds).ravel(), self.places)


def _sums(places: Places, seconds: Floats, count: int) -> Floats:
    return np.bincount(places, weights=seconds, minlength=count).astype(np.float64)


@dataclass(frozen=True)
class Optimum:
    """The least bound that was found, and the price of a second of each place at it."""

    surplus_nanoton: float
    prices: Floats


def least(program: Fluid) -> Optimum:
    """Tâtonnement: each price moves with the logarithm of what is wanted of its place over what there is, in steps that
    shrink; the mean of the later half is taken. Within 0.1 % of the optimum on the shipped scenarios. The same
    everywhere."""
    lowest, total = program.least_rates(), np.zeros(program.places)
    prices = lowest * 1.5
    for step in range(_STEPS):
        shrunk = 1 / (1 + _SHRINKS * step)
        wanted = np.maximum(program.wanted_s(prices, _BLUR * shrunk), 1e-12)
        excess = np.log(wanted / np.maximum(program.offered_s(prices, _BLUR * shrunk), 1e-9))
        prices = np.maximum(prices * np.exp(_FIRST_STEP * shrunk * np.clip(excess, -1.0, 1.0)), lowest)
        if step >= _STEPS // 2:
            total += prices
    prices = total / (_STEPS - _STEPS // 2)
    return Optimum(program.dual(prices), prices)
