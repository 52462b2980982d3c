"""An embedded TON network for development and tests: real TVM, real proofs, any liteserver client.

``async with Devnet.serve() as devnet`` starts one; ``devnet.global_config()`` is what clients need to reach it.
"""

from overlay.settlement.devnet.faucet import ask_faucet, ask_totals
from overlay.settlement.devnet.ledger import Totals
from overlay.settlement.devnet.server import Devnet, DevnetConfig, run_devnet

__all__ = ["Devnet", "DevnetConfig", "Totals", "ask_faucet", "ask_totals", "run_devnet"]
