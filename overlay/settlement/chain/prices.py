"""What TON charges, from the blockchain's own configuration, and what a message or a computation costs at those prices.

Pure. Formulas: ton.org/docs "Transaction fees", block.tlb (``GasLimitsPrices``, ``MsgForwardPrices``,
``StoragePrices``), crypto/block/transaction.cpp. All amounts are integer nanoTON; fractions of 2**16 round up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pytoniq_core.tlb.config import ConfigParam18, ConfigParam21, ConfigParam25

PRICE_PARAMETERS = (18, 20, 21, 24, 25)
"""Storage; gas in the masterchain and the basechain; forwarding in both. Channels live in the basechain."""


@dataclass(frozen=True)
class Prices:
    """The basechain's prices. Those named ``…_x65536`` are in nanoTON / 2**16, as the chain has them."""

    flat_gas_limit: int
    flat_gas_price: int
    gas_price_x65536: int
    lump_price: int
    bit_price_x65536: int
    cell_price_x65536: int
    storage_bit_price_x65536: int
    storage_cell_price_x65536: int

    @classmethod
    def from_config(cls, cells: Mapping[int, Any]) -> Self:
        """Read configuration parameters 18, 21 and 25 (cells). Raises ``ValueError`` when one is malformed."""
        try:
            storage = ConfigParam18.deserialize(cells[18].begin_parse())
            gas = ConfigParam21.deserialize(cells[21].begin_parse())
            forward = ConfigParam25.deserialize(cells[25].begin_parse())
            newest = storage[max(storage)]
            inner = gas.other if gas.type_ == "gas_flat_pfx" else gas
            return cls(
                flat_gas_limit=gas.flat_gas_limit or 0, flat_gas_price=gas.flat_gas_price or 0,
                gas_price_x65536=inner.gas_price, lump_price=forward.lump_price, bit_price_x65536=forward.bit_price,
                cell_price_x65536=forward.cell_price, storage_bit_price_x65536=newest.bit_price_ps,
                storage_cell_price_x65536=newest.cell_price_ps,
            )  # fmt: skip
        except Exception as error:  # pytoniq_core raises several unrelated types on malformed cells
            raise ValueError(f"not a network's prices: {error!r}") from error

    def gas_fee(self, gas: int) -> int:
        """What a computation of ``gas`` units costs."""
        return self.flat_gas_price + _up(max(gas - self.flat_gas_limit, 0) * self.gas_price_x65536)

    def forward_fee(self, message: Any) -> int:
        """What it costs to send a message (its cell): for an internal one in all, for an external one to be let in."""
        cells, bits = _size(message)
        return self.lump_price + _up(bits * self.bit_price_x65536 + cells * self.cell_price_x65536)

    def storage_fee(self, cells: int, bits: int, seconds: int) -> int:
        """Rent of so many cells and bits for ``seconds``."""
        return _up((cells * self.storage_cell_price_x65536 + bits * self.storage_bit_price_x65536) * seconds)


def _up(value_x65536: int) -> int:
    return -(-value_x65536 // 65536)


def _size(message: Any) -> tuple[int, int]:
    """Distinct cells and their bits below the root, which is what forwarding is charged for."""
    seen: set[bytes] = set()
    waiting = list(message.refs)
    bits = 0
    while waiting:
        cell = waiting.pop()
        if cell.hash not in seen:
            seen.add(cell.hash)
            bits += len(cell.bits)
            waiting.extend(cell.refs)
    return len(seen), bits
