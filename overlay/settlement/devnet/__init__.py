"""An embedded TON network for development and tests: real TVM, real proofs, any liteserver client.

``async with Devnet.serve() as devnet`` starts one; ``devnet.global_config()`` is what clients need to reach it.
:class:`NetworkTrouble`, :class:`ServerTrouble` and :class:`Lie` say what goes wrong, where a test wants it to.
"""

from overlay.settlement.devnet.faucet import ask_faucet, ask_totals
from overlay.settlement.devnet.ledger import Totals
from overlay.settlement.devnet.run import DevnetConfig, run_devnet
from overlay.settlement.devnet.server import Devnet
from overlay.settlement.devnet.trouble import Lie, NetworkTrouble, ServerTrouble, TroubleScript, read_script

__all__ = [
    "Devnet",
    "DevnetConfig",
    "Lie",
    "NetworkTrouble",
    "ServerTrouble",
    "Totals",
    "TroubleScript",
    "ask_faucet",
    "ask_totals",
    "read_script",
    "run_devnet",
]
