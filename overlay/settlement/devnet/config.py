"""The devnet's configuration: mainnet's prices under another ``global_id``, and the file that clients read.

The file has the shape of TON's ``global.config.json``, so any client takes it; what is ours stands under ``devnet``.
"""

from __future__ import annotations

import base64
import ipaddress
import struct
from typing import Any

from pytoniq_core import Builder, Cell, HashMap, begin_cell

from overlay.settlement.devnet.blocks import FULL_SHARD, BlockId

_GLOBAL_ID = 19
"""Configuration parameter 19: ``global_id:int32``."""


def devnet_config(default_boc: bytes, network_id: int) -> Any:
    """The configuration dictionary's root cell: the emulator's default with the devnet's own network id."""

    def load(value: Any) -> Any:
        return value.load_ref()

    def store(value: Any, builder: Builder) -> Builder:
        return builder.store_ref(value)

    root = Cell.one_from_boc(default_boc)
    parameters = HashMap.parse(root.begin_parse(), 32, value_deserializer=load)
    parameters[_GLOBAL_ID] = begin_cell().store_int(network_id, 32).end_cell()
    changed = HashMap(32, value_serializer=store)
    changed.map = parameters
    return changed.serialize()


def global_config(
    *, host: str, port: int, public_key: bytes, first_block: BlockId, network_id: int, faucet_port: int
) -> dict[str, Any]:
    """What a client needs, as ``global.config.json`` has it. ``host`` is an IPv4 address."""
    zero = base64.b64encode(bytes(32)).decode()
    return {
        "@type": "config.global",
        "liteservers": [
            {
                "ip": struct.unpack(">i", ipaddress.IPv4Address(host).packed)[0],
                "port": port,
                "id": {"@type": "pub.ed25519", "key": base64.b64encode(public_key).decode()},
            }
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
