"""What TON's basechain charges: gas, forwarding and storage, to the nanoTON (config parameters 21, 25 and 18).

The numbers are mainnet's, as ``@ton/sandbox`` has them; a test reads the configuration and compares. Fees round up, the
part of a forward fee that the sender's validators keep rounds down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_FRACTION = 1 << 16
"""Prices are in 1/65536 nanoTON."""


def _up(amount: int) -> int:
    return -(-amount // _FRACTION)


@dataclass(frozen=True, slots=True)
class Size:
    """Bits and cells, as fees count them: each distinct cell once."""

    bits: int = 0
    cells: int = 0

    def __add__(self, other: Size) -> Size:
        return Size(self.bits + other.bits, self.cells + other.cells)


def size_of(cell: Any, *, root: bool = True) -> Size:
    """Bits and distinct cells of a cell's tree; without ``root``, of what hangs below it: a message's root is free."""
    seen: set[bytes] = set()
    bits = cells = 0
    stack = [cell] if root else list(cell.refs)
    while stack:
        each = stack.pop()
        if each.hash in seen:
            continue
        seen.add(each.hash)
        bits, cells = bits + len(each.bits), cells + 1
        stack.extend(each.refs)
    return Size(bits, cells)


@dataclass(frozen=True)
class Prices:
    """The basechain's prices: gas (parameter 21), messages (25), storage (18), in the units of the configuration."""

    gas_price: int = 26_214_400
    gas_limit: int = 1_000_000
    flat_gas_limit: int = 100
    flat_gas_price: int = 40_000
    lump_nanoton: int = 400_000
    bit_price: int = 26_214_400
    cell_price: int = 2_621_440_000
    first_fraction: int = 21_845
    storage_bit: int = 1
    storage_cell: int = 500

    def gas_fee(self, gas: int) -> int:
        """What ``gas`` costs, in nanoTON."""
        if gas <= self.flat_gas_limit:
            return self.flat_gas_price
        return self.flat_gas_price + _up(self.gas_price * (gas - self.flat_gas_limit))

    def gas_bought(self, value_nanoton: int) -> int:
        """How much gas a message of this value may use."""
        if value_nanoton < self.flat_gas_price:
            return 0
        most = self.flat_gas_limit + ((value_nanoton - self.flat_gas_price) * _FRACTION) // self.gas_price
        return min(self.gas_limit, most)

    def forward_fee(self, size: Size) -> int:
        """What a message of this size (without its root cell) costs its sender."""
        return self.lump_nanoton + _up(self.bit_price * size.bits + self.cell_price * size.cells)

    def kept(self, forward_fee: int) -> int:
        """The part of a forward fee that is charged in the sending transaction; the rest travels with the message."""
        return (forward_fee * self.first_fraction) // _FRACTION

    def storage_fee(self, size: Size, seconds: int) -> int:
        """The rent of ``seconds``."""
        return _up((self.storage_bit * size.bits + self.storage_cell * size.cells) * seconds)


MAINNET_PRICES = Prices()
