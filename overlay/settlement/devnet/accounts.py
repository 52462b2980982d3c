"""The shard's dictionary of accounts: ``HashmapAugE 256 ShardAccount DepthBalanceInfo`` (TL-B block.tlb).

Values are ``ShardAccount`` cells; what stands beside each is the money beneath, in nanoTON.
"""

from __future__ import annotations

from typing import Any

from pytoniq_core import begin_cell

from overlay.settlement.cells import address_of
from overlay.settlement.devnet import hashmap
from overlay.settlement.devnet.hashmap import Node, Shape
from overlay.settlement.devnet.proofs import pruned, with_refs

KEY_BITS = 256


def store_currency(builder: Any, nanoton: int) -> Any:
    """``CurrencyCollection`` without extra currencies."""
    return builder.store_coins(nanoton).store_bit(0)


def store_depth_balance(builder: Any, nanoton: int) -> Any:
    """``DepthBalanceInfo``: split depth 0 and the money beneath."""
    return store_currency(builder.store_uint(0, 5), nanoton)


def _sum(left: int, right: int) -> int:
    return left + right


ACCOUNTS = Shape(KEY_BITS, store_depth_balance, _sum)


def key_of(address: str) -> int:
    """The key of a raw basechain address."""
    return int(address[2:], 16)


def put(tree: Node | None, key: int, shard_account: Any, balance_nanoton: int) -> Node:
    """The dictionary with an account set to a ``ShardAccount`` cell of ``balance_nanoton``."""
    return hashmap.put(ACCOUNTS, tree, key, shard_account, balance_nanoton)


def remove(tree: Node | None, key: int) -> Node | None:
    """The dictionary without an account."""
    return hashmap.remove(ACCOUNTS, tree, key)


def state_in(tree: Node | None, key: int) -> Any:
    """The account's own root cell, ``None`` when it is not there."""
    leaf = hashmap.find(ACCOUNTS, tree, key)
    return None if leaf is None else leaf.value.refs[0]


def prove(tree: Node, key: int) -> Any:
    """The dictionary's cells on the way to an account, or to where it would be, everything else pruned."""
    return hashmap.prove(tree.cell, KEY_BITS, key, lambda leaf: with_refs(leaf, [pruned(ref) for ref in leaf.refs]))


def uninit_account(address: str, balance_nanoton: int, now: int) -> Any:
    """The ``ShardAccount`` of an account that has money and no code yet (account_uninit)."""
    account = begin_cell().store_bit(1).store_address(address_of(address))
    account.store_uint(1, 3).store_uint(1, 8).store_uint(1, 3).store_uint(103, 8)  # storage_used: 1 cell, 103 bits
    account.store_uint(0, 3).store_uint(now, 32).store_bit(0)  # storage_extra_none, last_paid, no due payment
    account.store_uint(0, 64).store_coins(balance_nanoton).store_bit(0).store_uint(0, 2)  # account_uninit$00
    return begin_cell().store_ref(account.end_cell()).store_uint(0, 256).store_uint(0, 64).end_cell()


NOBODY = begin_cell().store_ref(begin_cell().store_bit(0).end_cell()).store_uint(0, 256).store_uint(0, 64).end_cell()
"""The ``ShardAccount`` of an account that does not exist."""
