"""The most that any schedule of a run could be worth: the dual of a fluid assignment problem that knows the time.

:mod:`simulations.market.optimum` derives it for a market that stays as it is. Here demand and machines come and go, so
what is traded is time of a class of machines in one minute: a *place*. A job may go to any class that serves its model,
in the minute in which it was asked for or one of the next (:data:`PATIENCE`), alone on its machine; it is worth the less
the later that lets it end, and takes the machine's time that it would take with all slots busy. Jobs are divisible, so
one that is done in a later minute is only known to end after that minute's beginning. The linear program

    max  Σ worth_jo x_jo − Σ rate_p y_p    s.t.  Σ_o x_jo ≤ 1,   Σ seconds_jo x_jo ≤ y_p,   y_p ≤ capacity_p

has, with a price λ_p ≥ rate_p for a second of each place, the dual

    g(λ) = Σ_j max(0, max_o worth_jo − λ_p(o) seconds_jo) + Σ_p capacity_p (λ_p − rate_p)

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
_FIRST_STEP, _SHRINKS = 0.3, 0.08
_NEAR = 0.05
"""A price that hovers so near to the cost of its place, as a share of it, is the cost: there nobody's time is short."""


@dataclass(frozen=True)
class Fluid:
    """The program. Options of a job that it has not are worth −∞."""

    worth: Floats
    """[job, option] nanoTON, waiting taken off."""
    seconds: Floats
    """[job, option] of a machine."""
    place: Places
    """[job, option]"""
    capacity_s: Floats
    """[place] of all its machines."""
    rate: Floats
    """[place] nanoTON that a second costs them."""

    def best(self, prices: Floats) -> tuple[Floats, Places]:
        """What each job has of its best option at these prices, and which that is; 0 where none is worth its price."""
        if not self.worth.size:
            return np.zeros(len(self.worth)), np.zeros(len(self.worth), dtype=np.intp)
        gains = self.worth - prices[self.place] * self.seconds
        chosen = gains.argmax(axis=1)
        return np.maximum(0.0, gains[np.arange(len(gains)), chosen]), chosen

    def dual(self, prices: Floats) -> tuple[float, Floats]:
        """g and a subgradient."""
        gain, chosen = self.best(prices)
        rows = np.flatnonzero(gain)
        wanted = np.bincount(
            self.place[rows, chosen[rows]], weights=self.seconds[rows, chosen[rows]], minlength=len(prices)
        )
        sells = prices > self.rate
        value = float(gain.sum() + (self.capacity_s * (prices - self.rate)).sum())
        return value, self.capacity_s * sells - wanted


@dataclass(frozen=True)
class Optimum:
    """The least bound that was found, and the price of a second of each place at it, never below its cost."""

    surplus_nanoton: float
    prices: Floats


def least(program: Fluid) -> Optimum:
    """Tâtonnement: each price moves with the excess of what is wanted of its place, in steps that shrink; the mean of
    the later half is taken. Within 0.05 % of the optimum on the shipped scenarios. The same everywhere."""
    prices, total = program.rate * 1.5, np.zeros_like(program.rate)
    supply = np.maximum(program.capacity_s, 1e-9)
    for step in range(_STEPS):
        _, slope = program.dual(prices)
        prices = prices * np.exp(-_FIRST_STEP / (1 + _SHRINKS * step) * np.clip(slope / supply, -1.0, 1.0))
        prices = np.maximum(prices, program.rate)
        if step >= _STEPS // 2:
            total += prices
    mean = np.maximum(total / (_STEPS - _STEPS // 2), program.rate)
    near = np.where(mean < (1 + _NEAR) * program.rate, program.rate, mean)
    found = min((program.dual(each)[0], number) for number, each in enumerate((mean, near)))
    return Optimum(found[0], (mean, near)[found[1]])
