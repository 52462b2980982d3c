"""The market alone: production's rules against the optimum and other policies, without network or cryptography.

A run takes seconds, so that efficiency, convergence and deviations can be measured for many seeds. docs/simulation.md,
"The market alone", says what is modelled; `python -m simulations.market` measures.
"""

from simulations.market.baselines import Cocoon, Golem
from simulations.market.floor import Floor, Policy
from simulations.market.measure import efficiency
from simulations.market.optimum import Optimum, upper_bound
from simulations.market.ours import Options, Ours
from simulations.market.rows import market_rows
from simulations.market.workload import Workload, make_workload

__all__ = [
    "Cocoon",
    "Floor",
    "Golem",
    "Optimum",
    "Options",
    "Ours",
    "Policy",
    "Workload",
    "efficiency",
    "make_workload",
    "market_rows",
    "upper_bound",
]
