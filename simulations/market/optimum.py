"""The most that any schedule could be worth: the dual of the fluid assignment problem.

Take the jobs j that come in a window of T seconds. Job j on class h is worth V_jh = S_j·v_j·(1 − θ_j·(S_j/s_h)/D_j) if
it starts at once (nothing if even that misses its deadline), and no schedule makes it worth more. It uses S_j of the
class's work; provider i can do T·C_i of it, at c_i a token. Let x_jh ≥ 0 be the share of j done on h, y_i the work of
i. Dropping all but the total work (no queues, no whole jobs, no ignorance) leaves the linear program

    max  Σ V_jh x_jh − Σ c_i y_i     s.t.  Σ_h x_jh ≤ 1,   Σ_j S_j x_jh ≤ Σ_{i in h} y_i,   y_i ≤ T·C_i

whose Lagrangian with a price p_h ≥ 0 on the second constraint separates:

    g(p) = Σ_j max(0, max_h V_jh − p_h S_j)  +  T Σ_i C_i max(0, p_{h(i)} − c_i)

Every p gives a bound (weak duality); the least is the program's optimum (strong duality), and its p are the Walrasian
prices: each job buys what is best for it, each provider sells when it pays, and the market clears. g is convex and
piecewise linear in four prices. In a stationary window the bound is strict up to the work carried over its edges; in
the first minute after a shock it only ranks policies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulations.market.workload import CLASSES, UNIT_NANOTON, Job, Provider

_Array = npt.NDArray[np.float64]

_STEPS = 300
_POLISH = 40


@dataclass(frozen=True)
class Optimum:
    """``surplus_nanoton`` is the bound, ``prices`` the competitive price of each class (nanoTON per million tokens)."""

    surplus_nanoton: float
    prices: tuple[float, ...]


@dataclass(frozen=True)
class Fluid:
    """The linear program, for any classes of machine and any way in which time devalues a job."""

    worth: _Array
    """[job, class] value in nanoTON, −inf where the class does not do."""
    units: _Array
    """[job] millions of tokens."""
    sellers: list[tuple[_Array, _Array]]
    """For each class: costs, and millions of tokens in the window."""

    def dual(self, prices: _Array) -> tuple[float, _Array]:
        """g(p) and a subgradient."""
        gains = self.worth - self.units[:, None] * prices
        best = gains.argmax(axis=1) if len(gains) else np.zeros(0, dtype=np.intp)
        gain = gains[np.arange(len(gains)), best]
        buys = gain > 0
        value = float(gain[buys].sum())
        slope = -np.bincount(best[buys], weights=self.units[buys], minlength=len(prices)).astype(np.float64)
        for kind, (costs, work) in enumerate(self.sellers):
            sells = prices[kind] > costs
            value += float((work[sells] * (prices[kind] - costs[sells])).sum())
            slope[kind] += float(work[sells].sum())
        return value, slope


def upper_bound(jobs: Sequence[Job], providers: Sequence[Provider], window_s: float) -> Optimum:
    """The bound for ``jobs``, all of which came within ``window_s``, on ``providers``."""
    return least_bound(_problem(jobs, providers, window_s), np.array([1.0, 1.2, 1.4, 1.7]) * UNIT_NANOTON)


def least_bound(problem: Fluid, prices: _Array) -> Optimum:
    """The least bound that a descent from ``prices`` finds. Any point where it stops is a bound; it stops within 0.1 %
    of the least one."""
    work = np.array([float(w.sum()) for _, w in problem.sellers]) + 1e-9
    best_value, best = np.inf, prices
    for step in range(_STEPS):
        value, slope = problem.dual(prices)
        if value < best_value:
            best_value, best = value, prices
        # Excess supply as a share of supply moves each price down by a shrinking factor: tâtonnement.
        prices = prices * np.exp(-0.3 / (1 + 0.08 * step) * np.clip(slope / work, -1.0, 1.0))
    best_value, best = _polish(problem, best_value, best)
    return Optimum(best_value, tuple(float(p) for p in best))


def _polish(problem: Fluid, value: float, prices: _Array) -> tuple[float, _Array]:
    """Compass search along the prices and along all of them together, halving the step when nothing improves."""
    size = 0.02
    moves = [*np.eye(len(prices)), np.ones(len(prices))]
    for _ in range(_POLISH):
        improved = False
        for move in moves:
            for sign in (1.0, -1.0):
                moved = prices * np.exp(sign * size * move)
                found, _ = problem.dual(moved)
                if found < value:
                    value, prices, improved = found, moved, True
        if not improved:
            size /= 2
            if size < 1e-4:
                break
    return value, prices


def _problem(jobs: Sequence[Job], providers: Sequence[Provider], window_s: float) -> Fluid:
    units = np.array([j.units for j in jobs], dtype=np.float64) / 1e6
    values = np.array([j.value_nanoton_per_munit for j in jobs], dtype=np.float64)
    deadlines = np.array([j.deadline_s for j in jobs], dtype=np.float64)
    impatience = np.array([j.impatience for j in jobs], dtype=np.float64)
    speeds = np.array([h.units_per_s for h in CLASSES], dtype=np.float64) / 1e6
    seconds = units[:, None] / speeds
    worth = (units * values)[:, None] * (1 - impatience[:, None] * seconds / deadlines[:, None])
    worth[seconds > deadlines[:, None]] = -np.inf
    sellers = []
    for kind in range(len(CLASSES)):
        own = [p for p in providers if p.hardware == kind]
        costs = np.array([p.cost_nanoton_per_munit for p in own], dtype=np.float64)
        work = np.array([p.capacity for p in own], dtype=np.float64) * window_s / 1e6
        sellers.append((costs, work))
    return Fluid(worth, units, sellers)
