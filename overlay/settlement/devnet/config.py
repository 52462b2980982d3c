"""The devnet's configuration: mainnet's prices under another ``global_id``, and the file that clients read.

The file has the shape of TON's ``global.config.json``, so any client takes it; what is ours stands under ``devnet``.
"""

from __future__ import annotations

import base64
import ipaddress
import struct
from collections.abc import Sequence
from typing import Any

from pytoniq_core import Builder, Cell, HashMap, begin_cell

from overlay.settlement.devnet.blocks import FULL_SHARD, BlockId
from overlay.settlement.devnet.limits import VALIDATOR_COUNT
from overlay.settlement.devnet.validators import ValidatorSet, catchain_config

_GLOBAL_ID = 19
"""Configuration parameter 19: ``global_id:int32``."""

_CATCHAIN = 28
_VALIDATORS = 34


def devnet_config(default_boc: bytes, network_id: int) -> Any:
    """The configuration dictionary's root cell: the emulator's default with the devnet's own network id."""
    number = begin_cell().store_int(network_id, 32).end_cell()
    return _with(Cell.one_from_boc(default_boc), {_GLOBAL_ID: number})


def with_validators(config: Any, validators: ValidatorSet) -> Any:
    """The configuration that puts these validators in office."""
    return _with(config, {_CATCHAIN: catchain_config(VALIDATOR_COUNT), _VALIDATORS: validators.cell()})


def _with(config: Any, parameters: dict[int, Any]) -> Any:
    def load(value: Any) -> Any:
        return value.load_ref()

    def store(value: Any, builder: Builder) -> Builder:
        return builder.store_ref(value)

    changed = HashMap(32, value_serializer=store)
    changed.map = HashMap.parse(config.begin_parse(), 32, value_deserializer=load) | parameters
    return changed.serialize()


def global_config(
    *,
    host: str,
    servers: Sequence[tuple[int, bytes]],
    first_block: BlockId,
    network_id: int,
    faucet_port: int,
) -> dict[str, Any]:
    """What a client needs, as ``global.config.json`` has it.

    ``host`` is an IPv4 address, ``servers`` the port and public key of each liteserver. ``init_block`` is the first
    block of the chain, a key block: where trust level 0 begins.
    """
    zero = base64.b64encode(bytes(32)).decode()
    address = struct.unpack(">i", ipaddress.IPv4Address(host).packed)[0]
    return {
        "@type": "config.global",
        "liteservers": [
            {"ip": address, "port": port, "id": {"@type": "pub.ed25519", "key": base64.b64encode(key).decode()}}
            for port, key in servers
        ],
        "validator": {
            "@type": "validator.config.global",
            "zero_state": {"workchain": -1, "shard": -FULL_SHARD, "seqno": 0, "root_hash": zero, "file_hash": zero},
            "init_block": {
                "workchain": -1,
                "shard": -FULL_SHARD,
                "seqno": first_block.seqno,
                "root_hash": base64.b64encode(first_block.root_hash).decode(),
                "file_hash": base64.b64encode(first_block.file_hash).decode(),
            },
        },
        "devnet": {"network_id": network_id, "faucet": {"host": host, "port": faucet_port}},
    }
